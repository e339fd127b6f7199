"""What can be wrong with a pipeline folder, each in one line that names the file."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from nuwa.generate.number_checks import is_number
from nuwa.hierarchy import NuwaError

INDEX = "model_index.json"
CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json")
_WRITERS = {
    "NuwaXLPipeline": "pipelines.train (stage image-vae, image, vae or mtd)",
    "StunetPipeline": "pipelines.train (stage stunet or ssr)",
}
"""What leaves a folder of each class of pipelines."""
COUNTS = (
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "in_channels",
    "latent_channels",
    "layers_per_block",
    "model_max_length",
    "norm_num_groups",
    "num_attention_heads",
    "num_train_timesteps",
    "out_channels",
    "temporal_kernel",
)
"""Entries of configurations that are numbers of at least 1, or lists of such, or null where a default takes over."""


def components(folder: Path, class_name: str) -> list[str]:
    """Names of the components that the index of a pipeline folder of class `class_name` lists."""
    index, entries = folder / INDEX, _index_of(folder)
    if entries.get("_class_name") != class_name:
        raise NuwaError(
            f"{index} describes {entries.get('_class_name')}, not {class_name}; "
            f"give a folder written by {_WRITERS.get(class_name, class_name)}"
        )
    listed = {name: entry for name, entry in entries.items() if isinstance(entry, list)}
    for name, entry in listed.items():
        if len(entry) != 2 or not all(isinstance(part, str) or entry == [None, None] for part in entry):
            raise NuwaError(
                f"{index} is damaged ({name} is {entry}, not a library and a class); copy or train this pipeline again"
            )
    return [name for name, entry in listed.items() if entry != [None, None]]


def class_name_of(folder: Path) -> str | None:
    """Class of the pipeline in a folder, as its index says. NuwaError where there is no pipeline folder."""
    name = _index_of(folder).get("_class_name")
    return name if isinstance(name, str) else None


def _index_of(folder: Path) -> dict:
    """Entries of the index of a pipeline folder."""
    if not folder.is_dir():
        raise NuwaError(f"there is no pipeline folder {folder}; give the folder `model` that a training run wrote")
    if not (folder / INDEX).is_file():
        raise NuwaError(f"{folder} is no pipeline folder ({INDEX} is missing); give the folder `model` of a training")
    return read_json(folder / INDEX)


def read_json(path: Path) -> dict:
    """A JSON object from a file of a pipeline folder."""
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NuwaError(f"{path} is damaged ({error}); copy or train this pipeline again") from error
    except OSError as error:
        raise NuwaError(f"{path} cannot be read ({error}); copy or train this pipeline again") from error
    if not isinstance(entries, dict):
        raise NuwaError(f"{path} is damaged (no JSON object); copy or train this pipeline again")
    return entries


def one_line(error: BaseException) -> str:
    """What went wrong, on one line; of a list of weights that do not fit the first."""
    first, *others = str(error).split("size mismatch for ")
    if not others:
        return " ".join(first.split())
    kind, more = first.split()[-1:], f" and {len(others) - 1} more" if len(others) > 1 else ""
    return " ".join([*kind, "size mismatch for", *others[0].split()]).rstrip(".") + more


def check_component(folder: Path) -> None:
    """Raise NuwaError when a file that the component needs is missing or cut short."""
    config = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if config is None:
        expected = " or ".join(CONFIGS)
        raise NuwaError(f"{folder} has no {expected}; the pipeline is incomplete: copy or train it again")
    for path in sorted(folder.glob("*.json")):
        read_json(path)
    _check_counts(config)
    if config.name == "config.json":
        for path in _weight_files(folder):
            _weight_names(path)
    if config.name == "tokenizer_config.json" and not (folder / "tokenizer.json").is_file():
        raise NuwaError(f"{folder / 'tokenizer.json'} is missing; copy or train this pipeline again")


def check_keys(folder: Path, module: nn.Module) -> None:
    """Raise NuwaError when the files of `folder` do not hold the weights of `module`, all of them and no others."""
    stored = {name for path in _weight_files(folder) for name in _weight_names(path)}
    expected = set(module.state_dict())
    missing, unknown = sorted(expected - stored), sorted(stored - expected)
    if missing:
        raise NuwaError(
            f"{folder} lacks {len(missing)} weights of {type(module).__name__}, the first is {missing[0]}; "
            "train this pipeline again with this version"
        )
    if unknown:
        raise NuwaError(
            f"{folder} holds {len(unknown)} weights that its config.json has no place for, the first is {unknown[0]}; "
            "copy or train this pipeline again"
        )


def _check_counts(config: Path) -> None:
    """Raise NuwaError for a configuration that counts none of what it cannot do without."""
    entries = read_json(config)
    for part in (entries, *(entry for entry in entries.values() if isinstance(entry, dict))):
        for name in COUNTS:
            counts = part.get(name)
            each = [counts] if not isinstance(counts, list) else [one for one in counts if not isinstance(one, list)]
            if counts == [] or not all(count is None or (is_number(count) and count >= 1) for count in each):
                raise NuwaError(
                    f"{config} says {name} is {json.dumps(counts)}; it must be at least 1: "
                    "copy or train this pipeline again"
                )


def _weight_files(folder: Path) -> list[Path]:
    for index in folder.glob("*.safetensors.index.json"):
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise NuwaError(f"{index} is damaged (no weight_map of files); copy or train this pipeline again")
        return [folder / shard for shard in sorted(set(shards.values()))]
    return sorted(folder.glob("*.safetensors")) or [folder / "diffusion_pytorch_model.safetensors"]


def _weight_names(path: Path) -> set[str]:
    if not path.is_file():
        raise NuwaError(f"{path} is missing; copy or train this pipeline again")
    try:
        with safe_open(path, framework="pt") as weights:
            return set(weights.keys())
    except (OSError, SafetensorError) as error:
        raise NuwaError(f"{path} is damaged or cut short ({error}); copy or train this pipeline again") from error
