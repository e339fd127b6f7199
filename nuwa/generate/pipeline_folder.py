"""A pipeline folder on disk: written whole, checked file by file when it is read."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import NuwaError

_INDEX = "model_index.json"
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json")


def save_pipeline(pipe: NuwaXLPipeline, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a complete pipeline folder under a temporary name, then put it in place of `folder`.

    `dtype` is the type of the weights on disk; the pipeline in memory keeps its own.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / _INDEX).is_file() and (_is_filled(folder)):
        raise NuwaError(f"{folder} exists and is no pipeline folder; name a new folder, or remove this one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, stale = (folder.parent / f"_{folder.name}.{end}-{os.getpid()}" for end in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.save_pretrained(fresh)
    _forget_origin(fresh)
    if dtype is not None:
        _cast_weights(fresh, dtype)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)


def load_pipeline(folder: str | Path) -> NuwaXLPipeline:
    """Read a pipeline folder into float32 weights on the CPU, in evaluation mode.

    Raises NuwaError, one line naming the file, when something is missing, cut short or does not fit.
    """
    folder = Path(folder)
    for name in _components(folder):
        _check_component(folder / name)
    logging.disable_progress_bar()
    try:
        pipe = NuwaXLPipeline.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
        line = " ".join(str(error).split())
        raise NuwaError(f"pipeline folder {folder} cannot be loaded ({line}); train or copy it again") from error
    finally:
        logging.enable_progress_bar()
    for name, module in pipe.components.items():
        if isinstance(module, nn.Module):
            _check_keys(folder / name, module)
            module.eval().requires_grad_(False)
    return pipe


def weights_fingerprint(folder: str | Path) -> str:
    """SHA-256 over names and bytes of the weights and configurations of a pipeline folder.

    Files of the tokenizer are left out: transformers writes its last call into them, and the vocabulary goes with
    the text encoder.
    """
    folder, digest = Path(folder), hashlib.sha256()
    for name in sorted(_components(folder)):
        weights = (folder / name).rglob("*.safetensors")
        for path in sorted([*weights, *(folder / name).glob("*config.json")]):
            if path.name != "tokenizer_config.json":
                digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_filled(folder: Path) -> bool:
    return not folder.is_dir() or next(folder.iterdir(), None) is not None


def _components(folder: Path) -> list[str]:
    index = folder / _INDEX
    if not folder.is_dir():
        raise NuwaError(f"there is no pipeline folder {folder}; give the folder `model` that a training run wrote")
    if not index.is_file():
        raise NuwaError(
            f"{folder} is no pipeline folder ({index.name} is missing); give the folder `model` of a training"
        )
    entries = _read_json(index)
    if entries.get("_class_name") != NuwaXLPipeline.__name__:
        raise NuwaError(
            f"{index} describes {entries.get('_class_name')}, not {NuwaXLPipeline.__name__}; "
            "give a folder written by pipelines.train"
        )
    return [name for name, entry in entries.items() if isinstance(entry, list) and entry[0] is not None]


def _read_json(path: Path) -> dict:
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NuwaError(f"{path} is damaged ({error}); copy or train this pipeline again") from error
    if not isinstance(entries, dict):
        raise NuwaError(f"{path} is damaged (no JSON object); copy or train this pipeline again")
    return entries


def _check_component(folder: Path) -> None:
    """Raise NuwaError when a file that the component needs is missing or cut short."""
    config = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    if config is None:
        expected = " or ".join(_CONFIGS)
        raise NuwaError(f"{folder} has no {expected}; the pipeline is incomplete: copy or train it again")
    for path in sorted(folder.glob("*.json")):
        _read_json(path)
    if config.name == "config.json":
        for path in _weight_files(folder):
            _weight_names(path)
    if config.name == "tokenizer_config.json" and not (folder / "tokenizer.json").is_file():
        raise NuwaError(f"{folder / 'tokenizer.json'} is missing; copy or train this pipeline again")


def _weight_files(folder: Path) -> list[Path]:
    for index in folder.glob("*.safetensors.index.json"):
        shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
        return [folder / shard for shard in shards]
    return sorted(folder.glob("*.safetensors")) or [folder / "diffusion_pytorch_model.safetensors"]


def _weight_names(path: Path) -> set[str]:
    if not path.is_file():
        raise NuwaError(f"{path} is missing; copy or train this pipeline again")
    try:
        with safe_open(path, framework="pt") as weights:
            return set(weights.keys())
    except SafetensorError as error:
        raise NuwaError(f"{path} is damaged or cut short ({error}); copy or train this pipeline again") from error


def _check_keys(folder: Path, module: nn.Module) -> None:
    stored = {name for path in _weight_files(folder) for name in _weight_names(path)}
    missing = sorted(set(module.state_dict()) - stored)
    if missing:
        raise NuwaError(
            f"{folder} lacks {len(missing)} weights of {type(module).__name__}, the first is {missing[0]}; "
            "train this pipeline again with this version"
        )


def _forget_origin(folder: Path) -> None:
    """Drop the path that components were read from: it means nothing elsewhere."""
    for path in (path for name in (_INDEX, *_CONFIGS) for path in folder.rglob(name)):
        entries = _read_json(path)
        kept = {key: value for key, value in entries.items() if key not in ("_name_or_path", "name_or_path")}
        if kept != entries:
            path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8")


def _cast_weights(folder: Path, dtype: torch.dtype) -> None:
    for path in sorted(folder.rglob("*.safetensors")):
        tensors = load_file(path)
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        save_file(cast, path, metadata={"format": "pt"})
