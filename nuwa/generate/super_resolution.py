"""Spatial super-resolution of a video of any length by MultiDiffusion (Lumiere Sec. 3.2)."""

import math
from dataclasses import dataclass, field

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.diffusion.guidance import guided
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.multidiffusion import Tiling, multidiffusion
from nuwa.generate.samplers import Sampler, SamplerName, denoise
from nuwa.generate.windows import noise_generator
from nuwa.hierarchy import NuwaError
from nuwa.models.ssr import augmented


@dataclass(frozen=True, kw_only=True)
class Upsampling:
    """How a video is made larger, beside weights and prompts.

    steps, sampler, guidance, seed: as in `nuwa.generate.windows.Sampling`
    noise_augmentation: noise on the small video, 0 (none: it is followed closely) to 1; it hides the faults of a
        video that was generated. Paper: not stated
    tiling: windows. Paper: their plain mean; here by default weights that fall towards the ends of a window, because
        then borders stand out half as much
    fps: of the video, 1/s; motion_score: mean optical flow in frame heights per second, None = not asked for
    """

    steps: int = 20
    sampler: SamplerName = "trained"
    guidance: float = 1.0
    seed: int = 0
    noise_augmentation: float = 0.1
    fps: float = 16.0
    motion_score: float | None = None
    tiling: Tiling = field(default_factory=lambda: Tiling(weights="ramp"))

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise NuwaError(f"steps is {self.steps}; it must be at least 1")
        if not 0.0 <= self.noise_augmentation <= 1.0:
            raise NuwaError(f"noise_augmentation is {self.noise_augmentation}; give 0 (none) to 1")
        if not 0 < self.fps < math.inf:
            raise NuwaError(f"fps is {self.fps}; it must be a number above 0")


@torch.no_grad()
def upsample_video(
    denoiser: Denoiser,
    scheduler: SchedulerMixin,
    large: torch.Tensor,
    prompts: torch.Tensor,
    null_prompt: torch.Tensor,
    upsampling: Upsampling,
    first: int = 0,
) -> torch.Tensor:
    """The sharp video (b c t H W) of a video that was only enlarged, all windows joined at every step.

    denoiser: called as `nuwa.models.ssr.SuperResolutionUNet`; scheduler: the one it was trained with
    large: (b c t H W), the small video made large by `nuwa.models.ssr.enlarged`; for a network of latents, encoded
    prompts: (b t n d) or (b n d); null_prompt: (n d), of the empty prompt
    first: number of the first frame in a longer video
    The noise of a frame depends on the seed, its number, and the number of its video in the batch only.
    """
    batch, count, device = len(large), large.shape[2], large.device
    level = torch.full((batch,), upsampling.noise_augmentation, device=device)
    condition = augmented(large.float(), level, _noise(large, upsampling.seed, "noise augmentation", first))
    motion = math.nan if upsampling.motion_score is None else upsampling.motion_score
    numbers = torch.tensor([[upsampling.fps, motion, upsampling.noise_augmentation]] * batch, device=device)
    joined = guided(multidiffusion(denoiser, upsampling.tiling), upsampling.guidance, null_prompt)
    seen = condition.to(large.dtype)

    def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return joined(zt.to(large.dtype), steps, prompts, seen, None, None, numbers).float()

    given, mask = torch.zeros_like(condition), torch.zeros(1, 1, count, 1, 1, device=device)
    noise = _noise(large, upsampling.seed, "super-resolution", first)
    walk = [noise_generator(upsampling.seed, f"super-resolution from {first}", 0, row) for row in range(batch)]
    return denoise(predict, Sampler(scheduler, upsampling.sampler, upsampling.steps, device), noise, given, mask, walk)


def _noise(like: torch.Tensor, seed: int, purpose: str, first: int) -> torch.Tensor:
    """Standard normal noise (b c t H W), float32, one generator per frame; `like` begins with frame `first`."""
    channels, height, width = like.shape[1], *like.shape[3:]
    videos = [
        [
            torch.randn(channels, height, width, generator=noise_generator(seed, purpose, row, first + frame))
            for frame in range(like.shape[2])
        ]
        for row in range(len(like))
    ]
    return torch.stack([torch.stack(frames, dim=1) for frames in videos]).to(like.device)
