"""The super-resolution of a pipeline folder: what it says of itself, and how a video is made larger by it."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nuwa.generate.config import GenerateConfig
from nuwa.generate.folder_checks import INDEX, components, read_json
from nuwa.generate.large_video import Enlarger, Enlarging
from nuwa.generate.multidiffusion import Tiling
from nuwa.generate.number_checks import is_share, is_whole
from nuwa.generate.stunet_pipeline import SSR_NOISE, StunetPipeline, load_stunet, stored_stunet
from nuwa.generate.super_resolution import Upsampling
from nuwa.hierarchy import NuwaError

_NOISE = 0.1
"""Noise on the small frames where the user does not say."""
_SHARED_FRAMES = 2
"""Frames that neighbouring windows share (Lumiere Sec. 3.2)."""


@dataclass(frozen=True)
class Ssr:
    """The folder of a super-resolution, its weights, and what is asked of it.

    unit_px: sides of the frames that it makes are multiples of this
    """

    folder: Path
    weights_sha256: str
    enlarging: Enlarging
    unit_px: int = 1

    def check_size(self, height: int, width: int) -> None:
        """Raise NuwaError where small frames of this size, enlarged, are no whole number of the network's units."""
        times, unit = self.enlarging.scale, self.unit_px
        if height * times % unit or width * times % unit:
            raise NuwaError(
                f"frames of {width}×{height} px become {width * times}×{height * times}, but the autoencoder of "
                f"{self.folder} takes multiples of {unit} px; give another --upscale, {self._fitting(height, width)} "
                "for one"
            )

    def _fitting(self, height: int, width: int) -> int:
        """The least scale that fits frames that do not fit as they are."""
        return self.unit_px // math.gcd(height, width, self.unit_px)

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
    learned = entries.get("ssr_noise", SSR_NOISE)
    if not is_whole(scale) or not is_whole(length) or not is_share(learned):
        raise NuwaError(
            f"{config.ssr / INDEX}: ssr_scale is {scale!r}, ssr_length {length!r} and ssr_noise {learned!r}, which are "
            "not two numbers above 0 and one from 0 to 1; copy or train this pipeline again"
        )
    assert isinstance(scale, int)
    assert isinstance(length, int)
    upsampling = Upsampling(
        steps=config.ssr_steps,
        sampler=config.sampler,
        seed=config.seed,
        noise_augmentation=_noise(config, learned),
        fps=fps,
        motion_score=config.motion_score,
        tiling=Tiling(frames=max(length, _SHARED_FRAMES + 1), frame_overlap=_SHARED_FRAMES, weights="ramp"),
    )
    times = scale if config.upscale == 1 else config.upscale
    enlarging = Enlarging(upsampling=upsampling, scale=times, segment=config.ssr_segment, tile_px=config.ssr_tile_px)
    return Ssr(config.ssr, stored.weights_sha256, enlarging, _unit_px(config.ssr))


def _noise(config: GenerateConfig, learned: float) -> float:
    """Noise on the small frames. NuwaError for more than the network has `learned` from."""
    if config.ssr_noise is None:
        return min(_NOISE, learned)
    if learned < config.ssr_noise <= 1:
        raise NuwaError(
            f"--ssr-noise is {config.ssr_noise:g}, but {config.ssr} was trained with noise up to {learned:g}; "
            "give at most that"
        )
    return config.ssr_noise


def _unit_px(folder: Path) -> int:
    """Pixels on a side of what the network sees as one: those of a latent, or 1 without an autoencoder."""
    if "vae" not in components(folder, StunetPipeline.__name__):
        return 1
    blocks = read_json(folder / "vae/config.json").get("block_out_channels")
    return int(2 ** (len(blocks) - 1)) if isinstance(blocks, list) else 1  # what is wrong with it is told on loading
