"""What can be said about model files without loading them: which are missing or cut short, how wide an embedding is."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from curation.config import CaptionConfig, CurationConfig, CurationError, EmbedConfig

WEIGHT_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")


class ModelFileError(CurationError):
    """A model file is missing or is not what its place promises."""


def check_model_files(config: CurationConfig) -> None:
    """Raise ModelFileError for the first file that is missing, and for safetensors that end before their tensors do."""
    wanted: list[tuple[str, Path]] = []
    for field, stage in (("embed.weights", config.embed), ("caption.weights", config.caption)):
        wanted += [(field, path) for path in open_clip_files(stage)]
    wanted.append(("aesthetics.head", config.aesthetics.head))
    if config.text.detector == "easyocr":
        folder = config.text.weights_dir or Path()
        wanted.append(("text.weights_dir", folder / "craft_mlt_25k.pth"))
    for field, path in wanted:
        if not path.is_file():
            raise ModelFileError(
                f"profile {config.profile!r} needs the model file {path} ({field}), which is missing: put it there, "
                "or choose another profile with --profile (demo runs on the models that ship)"
            )
        if path.suffix == ".safetensors":
            _check_safetensors(path, field, config.profile)


def _check_safetensors(path: Path, field: str, profile: str) -> None:
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ModelFileError(
            f"profile {profile!r} needs {path} ({field}), which is not a whole safetensors file ({error}): restore it"
        ) from error


def open_clip_files(config: EmbedConfig | CaptionConfig) -> list[Path]:
    """The files an open_clip model is read from: one checkpoint, or configuration and weights in one folder."""
    if config.architecture is not None:
        return [config.weights]
    found = [config.weights / name for name in WEIGHT_NAMES if (config.weights / name).is_file()]
    return [config.weights / "open_clip_config.json", (found or [config.weights / WEIGHT_NAMES[0]])[0]]


def embedding_dim(config: EmbedConfig) -> int:
    """Width d of the model's image embedding, read from its JSON description."""
    path = _model_json(config)
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        return int(values.get("model_cfg", values)["embed_dim"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} does not describe an open_clip model ({error!r}): restore the file") from error


def _model_json(config: EmbedConfig) -> Path:
    if config.architecture is None:
        return config.weights / "open_clip_config.json"
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None, "open_clip is a dependency of this package"
    path = Path(spec.origin).parent / "model_configs" / f"{config.architecture}.json"
    if not path.is_file():
        raise ModelFileError(
            f"open_clip knows no architecture {config.architecture!r}: see open_clip.list_models() for the names"
        )
    return path
