"""What a folder given by --init holds, read from its configurations. No torch here."""

import json
from pathlib import Path

from nuwa.train.config import CLIP_STAGES, DEFAULTS, LARGER, TrainConfig

FIRST_WIDTHS = {"toy": 0, "base": 192, "large": 320}
"""Preset by the least first width of its denoiser."""


def is_image_pipeline(folder: Path) -> bool:
    """True for a folder of an image model as diffusers writes it (Stable Diffusion's), to be inflated first."""
    return (folder / "unet" / "config.json").is_file()


def window_length_of(folder: Path, stage: str) -> int | None:
    """Frames of the windows that `stage` goes on with from a pipeline folder; None where it says nothing of them.

    A folder that cannot be read says nothing either: loading it tells better. Windows of NUWA-XL are no clips.
    """
    entries = _entries(folder / "model_index.json")
    if stage in CLIP_STAGES and entries.get("_class_name") != "StunetPipeline":
        return None
    length = entries.get("ssr_length" if stage == "ssr" else "window_length")
    return length if isinstance(length, int) else None


def defaults_of(config: TrainConfig) -> tuple[int, int, float]:
    """Steps, batch and peak learning rate of a stage for networks of the size that trains."""
    return LARGER.get(_size(config), DEFAULTS).get(config.stage, DEFAULTS[config.stage])


def _size(config: TrainConfig) -> str:
    """The preset, or the one whose denoiser is about as wide as that of --init."""
    if config.init is None:
        return config.preset
    parts = ("unet", "denoiser_global", "stunet")
    found = next((entries for part in parts if (entries := _entries(config.init / part / "config.json"))), {})
    unet = found.get("unet_config", found)  # that of an inflated network lies inside its own
    widths = unet.get("block_out_channels") if isinstance(unet, dict) else None
    width = widths[0] if isinstance(widths, list) and widths and isinstance(widths[0], int) else 0
    return max((name for name, least in FIRST_WIDTHS.items() if width >= least), key=FIRST_WIDTHS.__getitem__)


def _entries(path: Path) -> dict[str, object]:
    """A JSON object; empty where there is none."""
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
