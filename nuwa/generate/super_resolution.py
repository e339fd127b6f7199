"""Spatial super-resolution of a video of any length by MultiDiffusion (Lumiere Sec. 3.2)."""

import math
from dataclasses import dataclass, field

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.diffusion.guidance import guided
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.multidiffusion import Tiling, multidiffusion
from nuwa.generate.samplers import Sampler, SamplerName
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
) -> torch.Tensor:
    """The sharp video (b c t H W) of a video that was only enlarged, all windows joined at every step.

    denoiser: called as `nuwa.models.ssr.SuperResolutionUNet`; scheduler: the one it was trained with
    large: (b c t H W), the small video made large by `nuwa.models.ssr.enlarged`; for a network of latents, encoded
    prompts: (b t n d) or (b n d); null_prompt: (n d), of the empty prompt
    The noise of a video depends on the seed and on its number in the batch only.
    """
    batch, device = len(large), large.device
    noises = [noise_generator(upsampling.seed, "super-resolution", 0, row) for row in range(batch)]
    condition = augmented(
        large.float(),
        torch.full((batch,), upsampling.noise_augmentation, device=device),
        _draws(large, [noise_generator(upsampling.seed, "noise augmentation", 0, row) for row in range(batch)]),
    ).to(large.dtype)
    motion = math.nan if upsampling.motion_score is None else upsampling.motion_score
    numbers = torch.tensor([[upsampling.fps, motion, upsampling.noise_augmentation]] * batch, device=device)
    joined = guided(multidiffusion(denoiser, upsampling.tiling), upsampling.guidance, null_prompt)
    sampler = Sampler(scheduler, upsampling.sampler, upsampling.steps, device)
    zt = sampler.start(_draws(large, noises))
    for index, timestep in enumerate(sampler.timesteps):
        seen = sampler.model_input(zt, index).to(large.dtype)
        prediction = joined(seen, timestep.expand(batch), prompts, condition, None, None, numbers)
        zt = sampler.step(prediction.float(), index, zt, noises)
    return zt


def _draws(like: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """Standard normal noise (b c t H W), float32, one generator per video."""
    return torch.stack([torch.randn(like.shape[1:], generator=one) for one in generators]).to(like.device)
