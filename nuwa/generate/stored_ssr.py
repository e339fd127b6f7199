"""The super-resolution of a pipeline folder: what it says of itself, and how a video is made larger by it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nuwa.generate.config import GenerateConfig
from nuwa.generate.folder_checks import INDEX, components, read_json
from nuwa.generate.large_video import Enlarger, Enlarging
from nuwa.generate.multidiffusion import Tiling
from nuwa.generate.number_checks import is_whole
from nuwa.generate.stunet_pipeline import StunetPipeline, load_stunet, stored_stunet
from nuwa.generate.super_resolution import Upsampling
from nuwa.hierarchy import NuwaError

_SHARED_FRAMES = 2
"""Frames that neighbouring windows share (Lumiere Sec. 3.2)."""


@dataclass(frozen=True)
class Ssr:
    """The folder of a super-resolution, its weights, and what is asked of it."""

    folder: Path
    weights_sha256: str
    enlarging: Enlarging

    def describe(self) -> dict[str, Any]:
        """What the record says of it."""
        return {"weights_sha256": self.weights_sha256, **asdict(self.enlarging)}

    def load(self, device: str) -> Enlarger:
        """The network, ready. NuwaError when the folder has changed or cannot be loaded."""
        pipe = load_stunet(self.folder, weights_sha256=self.weights_sha256)
        pipe.register_modules(stunet=None)  # the network of clips is not needed for this
        return Enlarger(pipe.to(device), self.enlarging)


def asked_ssr(config: GenerateConfig, fps: float) -> Ssr | None:
    """What `--ssr` asks for, checked without loading weights; None without it."""
    if config.ssr is None:
        return None
    stored = stored_stunet(config.ssr)
    if "ssr" not in components(config.ssr, StunetPipeline.__name__):
        raise NuwaError(f"{config.ssr} has no super-resolution; give the `model` of a training of stage ssr")
    entries = read_json(config.ssr / INDEX)
    scale, length = (entries.get(name) for name in ("ssr_scale", "ssr_length"))
    if not is_whole(scale) or not is_whole(length):
        raise NuwaError(
            f"{config.ssr / INDEX}: ssr_scale is {scale!r} and ssr_length {length!r}, which are no numbers above 0; "
            "copy or train this pipeline again"
        )
    assert isinstance(scale, int)
    assert isinstance(length, int)
    upsampling = Upsampling(
        steps=config.ssr_steps,
        sampler=config.sampler,
        seed=config.seed,
        noise_augmentation=config.ssr_noise,
        fps=fps,
        motion_score=config.motion_score,
        tiling=Tiling(frames=max(length, _SHARED_FRAMES + 1), frame_overlap=_SHARED_FRAMES, weights="ramp"),
    )
    times = scale if config.upscale == 1 else config.upscale
    enlarging = Enlarging(upsampling=upsampling, scale=times, segment=config.ssr_segment, tile_px=config.ssr_tile_px)
    return Ssr(config.ssr, stored.weights_sha256, enlarging)
