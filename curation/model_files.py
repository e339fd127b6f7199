"""What can be said about model files without loading them: which are missing or cut short, where one gets them, how
wide an embedding is.

Imports no model library, unless a model is given by a name that only the library's cache can turn into a file.
Nothing here or elsewhere downloads: that is what the commands in the messages are for.
"""

import hashlib
import importlib.util
import json
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.model_config import CaptionConfig, EmbedConfig, VideoCaptionConfig

OpenClipConfig = EmbedConfig | CaptionConfig | VideoCaptionConfig
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)
CRAFT_FILE = "craft_mlt_25k.pth"
CRAFT_MD5 = "2f8227d2def4037cdb3b34389dcf9ec1"
STAGES = ("text", "caption", "video_caption", "merge", "embed", "aesthetics")
# Where the files of profile svd come from, by the name of the folder or file that the profile gives them.
HUB_FOLDERS = {
    "clip-vit-l-14-openai": ("timm/vit_large_patch14_clip_224.openai", "open_clip*"),
    "coca-vit-l-14-mscoco": ("laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k", "open_clip*"),
    "blip2-opt-2.7b": ("Salesforce/blip2-opt-2.7b", None),
}
URLS = {
    CRAFT_FILE: "https://github.com/JaidedAI/EasyOCR/releases/download/pre-v1.1.6/craft_mlt_25k.zip",
    "sa_0_4_vit_l_14_linear.pth": (
        "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth"
    ),
    "sa_0_4_vit_b_32_linear.pth": (
        "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_b_32_linear.pth"
    ),
    "sac+logos+ava1-l14-linearMSE.pth": (
        "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth"
    ),
}


class ModelFileError(CurationError):
    """A model file is missing or is not what its place promises."""


@dataclass(frozen=True)
class ModelFile:
    """A file that a stage reads."""

    field: str
    """Of the configuration, e.g. caption.weights."""
    path: Path
    remedy: str
    """The command that gets it, or what else to do."""

    def problem(self) -> str | None:
        """What is wrong with the file, or null."""
        return _damage(self.path) if self.path.is_file() else "missing"


def check_model_files(config: CurationConfig, stages: Collection[str] | None = None) -> None:
    """Make sure that the files of `stages` (names of STAGES; null means all) are there and whole.

    Raises:
        ModelFileError: naming all that are not at once, each with the command or flag that puts it right.
    """
    wanted = [file for stage in STAGES if stages is None or stage in stages for file in _files_of(stage, config)]
    alike: dict[tuple[str, str, str], list[str]] = {}  # files of one folder that one command gets
    for file in wanted:
        if problem := file.problem():
            alike.setdefault((file.field, problem, file.remedy), []).append(str(file.path))
    if alike:
        lines = [f"{field}: {', '.join(paths)} {what}, {remedy}" for (field, what, remedy), paths in alike.items()]
        listed = "; ".join(f"({number}) {line}" for number, line in enumerate(lines, 1))
        raise ModelFileError(
            f"profile {config.profile!r} lacks model files. {listed}. Or choose another profile with --profile (demo "
            "runs on the models that ship), or set other files in a JSON profile (--profile FILE.json)"
        )


def model_bytes(config: CurationConfig, stages: Collection[str]) -> int:
    """Size of the files that `stages` load, each counted once: about what they take in memory as float32."""
    files = {file.path for stage in STAGES if stage in stages for file in _files_of(stage, config)}
    return sum(path.stat().st_size for path in files if path.is_file())


def _files_of(stage: str, config: CurationConfig) -> Iterator[ModelFile]:
    if stage == "text" and config.text.detector == "easyocr":
        folder = config.text.weights_dir or Path("models/easyocr")
        yield ModelFile("text.weights_dir", folder / CRAFT_FILE, _unzip(URLS[CRAFT_FILE], folder))
    elif stage == "aesthetics":
        head = config.aesthetics.head
        yield ModelFile("aesthetics.head", head, _fetched(head) if head.name in URLS else _otherwise(head))
    elif stage in ("embed", "caption"):
        yield from _open_clip(f"{stage}.weights", config.embed if stage == "embed" else config.caption)
    elif stage == "video_caption" and config.video_caption.model == "coca_grid":
        yield from _open_clip("video_caption.weights", config.video_caption)
    elif stage == "video_caption":
        weights = config.video_caption.weights
        for path in transformers_files(transformers_folder(weights)):
            yield ModelFile("video_caption.weights", path, _downloaded(weights))


def _open_clip(field: str, config: OpenClipConfig) -> Iterator[ModelFile]:
    remedy = _downloaded(config.weights)
    if config.architecture is not None:
        unknown = "which open_clip does not have: see open_clip.list_models() for the names"
        yield ModelFile(field.replace("weights", "architecture"), _model_json(config), unknown)
        if _is_tag(config.weights):
            fetch = (
                f"import open_clip; open_clip.create_model({config.architecture!r}, pretrained={str(config.weights)!r})"
            )
            remedy = f"run python -c {shlex.quote(fetch)}  on each node, or give the path of a checkpoint"
    for path in open_clip_files(config):
        yield ModelFile(field, path, remedy)


# --- remedies ---------------------------------------------------------------------------------------------------------


def _unzip(url: str, folder: Path) -> str:
    place = shlex.quote(str(folder))
    return f"run mkdir -p {place} && curl -L -o /tmp/craft.zip {url} && unzip -o /tmp/craft.zip -d {place}"


def _fetched(path: Path) -> str:
    return f"run curl -L --create-dirs -o {shlex.quote(str(path))} {URLS[path.name]}"


def _downloaded(weights: Path) -> str:
    """By `hf`, the command of huggingface_hub, which transformers brings along."""
    if _is_hub_name(weights):
        return f"run hf download {weights}  on each node, or give the path of a folder"
    if weights.name not in HUB_FOLDERS:
        return _otherwise(weights)
    repository, names = HUB_FOLDERS[weights.name]
    chosen = f" --include {shlex.quote(names)}" if names else ""
    return f"run hf download {repository}{chosen} --local-dir {shlex.quote(str(weights))}"


def _otherwise(path: Path) -> str:
    shipped = "weights" in path.parts and "demo" in path.parts
    return "restore it from the repository (git checkout demo/weights)" if shipped else "put it there"


# --- which files a model consists of ----------------------------------------------------------------------------------


def open_clip_files(config: OpenClipConfig) -> list[Path]:
    """The files an open_clip model is read from: one checkpoint, or configuration and weights in one folder."""
    if config.architecture is not None:
        cached = _of_tag(config.architecture, str(config.weights)) if _is_tag(config.weights) else None
        return [cached or config.weights]
    found = [config.weights / name for name in WEIGHT_NAMES if (config.weights / name).is_file()]
    return [config.weights / "open_clip_config.json", (found or [config.weights / WEIGHT_NAMES[0]])[0]]


def _is_tag(weights: Path) -> bool:
    """Whether `weights` may be a name like openai or laion2b_s32b_b82k, of weights that open_clip has published."""
    return not weights.exists() and len(weights.parts) == 1 and not weights.suffix


def _of_tag(architecture: str, tag: str) -> Path | None:
    """The checkpoint in the cache of Hugging Face, or in that of open_clip; null where it was never downloaded."""
    import huggingface_hub
    import open_clip

    source = open_clip.get_pretrained_cfg(architecture, tag) or {}
    repository, _, name = source.get("hf_hub", "").rpartition("/")
    for file_name in [name] if name else WEIGHT_NAMES if repository else []:
        found = huggingface_hub.try_to_load_from_cache(repository, file_name)
        if isinstance(found, str):
            return Path(found)
    downloaded = Path("~/.cache/clip").expanduser() / Path(source.get("url", "")).name
    return downloaded if downloaded.is_file() else None


def _is_hub_name(weights: Path) -> bool:
    return not weights.exists() and len(weights.parts) == 2 and weights.parts[0] not in ("models", ".", "..", "/")


def transformers_folder(weights: Path) -> Path:
    """The folder of a model given by path, or by its name (OWNER/NAME) if the cache of Hugging Face has it."""
    if not _is_hub_name(weights):
        return weights
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(str(weights), local_files_only=True))
    except LocalEntryNotFoundError:
        return weights


def transformers_files(folder: Path) -> list[Path]:
    """The files that `save_pretrained` of a model and of its processor write, as far as they can be told."""
    index = folder / "model.safetensors.index.json"
    pickled = [folder / name for name in ("pytorch_model.bin", "pytorch_model.bin.index.json")]
    weights = [folder / "model.safetensors"]
    if index.is_file():
        weights = [index, *(folder / name for name in sorted(set(_json(index).get("weight_map", {}).values())))]
    elif not weights[0].is_file() and any(path.is_file() for path in pickled):
        weights = [path for path in pickled if path.is_file()]
    processors = [folder / name for name in ("processor_config.json", "preprocessor_config.json")]
    processor = next((path for path in processors if path.is_file()), processors[0])
    return [folder / "config.json", *weights, processor]


def _damage(path: Path) -> str | None:
    if path.name == CRAFT_FILE and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != CRAFT_MD5:
        return f"damaged (its md5 is not {CRAFT_MD5})"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            return f"not a whole safetensors file ({error})"
    return None


def embedding_dim(config: EmbedConfig) -> int:
    """Width d of the model's image embedding, read from its JSON description."""
    path = _model_json(config)
    if config.architecture is not None and not path.is_file():
        raise ModelFileError(
            f"open_clip knows no architecture {config.architecture!r}: see open_clip.list_models() for the names"
        )
    values = _json(path)
    try:
        return int(values.get("model_cfg", values)["embed_dim"])
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} does not describe an open_clip model ({error!r}): restore the file") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no readable description of a model ({error!r}): restore the file") from error
    return values


def _model_json(config: OpenClipConfig) -> Path:
    if config.architecture is None:
        return config.weights / "open_clip_config.json"
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None, "open_clip is a dependency of this package"
    return Path(spec.origin).parent / "model_configs" / f"{config.architecture}.json"
