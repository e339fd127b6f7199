"""A style checkpoint on disk: an image U-Net, alone or inside a pipeline folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from diffusers import UNet2DConditionModel
from diffusers.utils import logging

from nuwa.generate.folder_checks import check_component, check_keys
from nuwa.generate.folder_pipeline import LOADING_ERRORS
from nuwa.generate.number_checks import is_number
from nuwa.hierarchy import NuwaError
from nuwa.models.stunet import SpaceTimeUNet

_INSIDE = ("", "unet", "stunet")
"""Where the network lies in a folder that is given: the folder of a U-Net, of an image pipeline, of one of clips."""


@dataclass(frozen=True)
class Style:
    """Where a style lies, which weights it has, and how far it is followed, 0 to 1. NuwaError for other amounts."""

    folder: Path
    weights_sha256: str
    strength: float

    def __post_init__(self) -> None:
        if not is_number(self.strength) or not 0.0 <= self.strength <= 1.0:
            raise NuwaError(f"--style-strength is {self.strength}; give 0 (the model's own) to 1 (the style)")

    def describe(self) -> dict[str, object]:
        """What the record says of it."""
        return {"weights_sha256": self.weights_sha256, "strength": self.strength}


def stored_style(folder: Path, strength: float) -> Style:
    """The style in a folder, without loading it. NuwaError, one line naming the file, when there is none."""
    place = _network_folder(folder)
    check_component(place)
    digest = hashlib.sha256()
    for path in sorted([place / "config.json", *place.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return Style(folder, digest.hexdigest(), strength)


def load_style(style: Style) -> UNet2DConditionModel:
    """The image U-Net of a style, in float32; a space-time U-Net gives its spatial weights.

    NuwaError, one line, when it cannot be loaded or has changed since `stored_style` looked.
    """
    place = _network_folder(style.folder)
    kind = SpaceTimeUNet if place.name == "stunet" else UNet2DConditionModel
    logging.disable_progress_bar()
    try:
        network = kind.from_pretrained(place, local_files_only=True, low_cpu_mem_usage=False)
    except NuwaError as error:
        raise NuwaError(f"style {place}: {error}") from error
    except LOADING_ERRORS as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise NuwaError(
            f"style {place} cannot be loaded ({line}); give the folder of a UNet2DConditionModel"
        ) from error
    finally:
        logging.enable_progress_bar()
    check_keys(place, network)
    if stored_style(style.folder, style.strength) != style:
        raise NuwaError(f"the style at {style.folder} has changed since this clip was begun; give the command again")
    return network.image_unet() if isinstance(network, SpaceTimeUNet) else network


def _network_folder(folder: Path) -> Path:
    """The folder of the network, which has a config.json and weights."""
    if not folder.is_dir():
        raise NuwaError(f"there is no style folder {folder}; give the folder of a UNet2DConditionModel")
    for name in _INSIDE:
        if (folder / name / "config.json").is_file():
            return folder / name
    raise NuwaError(
        f"{folder} has no U-Net (config.json, or unet/config.json); give the folder of a UNet2DConditionModel that was "
        "fine-tuned on the style"
    )
