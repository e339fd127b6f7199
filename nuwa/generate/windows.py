"""One batch of windows: noise in, latents out, given frames held fixed (NUWA-XL Sec. 3.2, 3.3)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.diffusion.guidance import guided
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import NuwaError, Window


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How windows are sampled: all that fixes the result beside weights and prompts.

    steps of the scheduler; guidance scale (1 = none); batch, local windows in flight; fps of the video, 1/s;
    motion_score, mean optical flow in frame heights per second, None = not asked for.
    """

    steps: int = 20
    guidance: float = 4.0
    seed: int = 0
    batch: int = 4
    fps: float = 8.0
    motion_score: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "fps"):
            if not 0 < getattr(self, name) < math.inf:
                raise NuwaError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        if not math.isfinite(self.guidance):
            raise NuwaError(f"guidance is {self.guidance}; give a number (1 is none)")


@dataclass(frozen=True)
class FixedFrame:
    """A frame that is made and never changes again.

    latent: (c h w), scaled to unit variance
    pixels: (3 H W) in [−1, 1], decoded once by the window that made it
    """

    latent: torch.Tensor
    pixels: torch.Tensor


@dataclass(frozen=True)
class WindowTask:
    """A window with what it starts from.

    tokens: (l n d), the encoded prompt of each of its frames; given: position in the window → frame.
    """

    window: Window
    tokens: torch.Tensor
    given: Mapping[int, FixedFrame] = field(default_factory=dict)


def noise_generator(seed: int, purpose: str, level: int, index: int) -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments, so neither on batch, order nor device."""
    key = hashlib.blake2b(f"{seed}/{purpose}/{level}/{index}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(key, "little") >> 1)


def fill_batch(tasks: Sequence[WindowTask], batch: int) -> list[WindowTask]:
    """`tasks` and copies of the first one up to `batch`; their results are to be dropped.

    The kernels then always see one shape, so that a window's result does not depend on its companions.
    """
    return [*tasks, *[tasks[0]] * (batch - len(tasks))]


@torch.no_grad()
def sample_windows(pipe: NuwaXLPipeline, tasks: Sequence[WindowTask], sampling: Sampling) -> torch.Tensor:
    """Reverse diffusion of windows whose levels share one denoiser: scaled latents (b c l h w).

    Paper: how given frames are kept while sampling is not stated; here: before every step they are put back
    at the step's noise level, and after the last one exactly, so the frames between grow towards them.
    """
    denoiser = pipe.denoiser_at(tasks[0].window.level)
    tokens = torch.stack([task.tokens for task in tasks]).to(pipe.device)  # b l n d
    condition, given, mask = conditioning(pipe, tasks)
    noise, generators = _noise(tasks, sampling.seed, given.shape[1:], pipe.device)
    stride = torch.tensor([task.window.stride for task in tasks], device=pipe.device)
    time_ids = _time_ids(len(tasks), sampling, pipe.device)
    predict = guided(denoiser, sampling.guidance, pipe.encode_prompts([""])[0])
    scheduler = _fresh(pipe.scheduler, sampling.steps, pipe.device)
    zt = noise * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        steps = step.expand(len(tasks))
        zt = torch.where(mask > 0, scheduler.add_noise(given, noise, steps), zt)
        scaled = scheduler.scale_model_input(zt, step)
        eps_hat = predict(scaled, steps, tokens, condition, mask, stride, time_ids)
        zt = scheduler.step(eps_hat, step, zt, generator=generators, return_dict=False)[0]
    return torch.where(mask > 0, given, zt)


def conditioning(pipe: NuwaXLPipeline, tasks: Sequence[WindowTask]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is known of each window (NUWA-XL Sec. 3.2).

    Returns the condition z_c (b c l h w), encoded from pixels in which unknown frames are zero; the latents
    of given frames (b c l h w), zero elsewhere; and the mask (b 1 l h w), 1 where a frame is given.
    """
    length = tasks[0].tokens.shape[0]
    height, width = pipe.config.height, pipe.config.width
    pixels = torch.zeros(len(tasks), 3, length, height, width, device=pipe.device)
    for row, task in enumerate(tasks):
        for position, frame in task.given.items():
            pixels[row, :, position] = frame.pixels
    condition = pipe.vae.encode(pixels).mode() * pipe.vae.config.scaling_factor  # b c l h w
    given, mask = torch.zeros_like(condition), torch.zeros_like(condition[:, :1])
    for row, task in enumerate(tasks):
        for position, frame in task.given.items():
            given[row, :, position] = frame.latent
            mask[row, :, position] = 1.0
    return condition, given, mask


@torch.no_grad()
def decode(pipe: NuwaXLPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents (b c l h w) to video (b 3 l H W) in [−1, 1]."""
    return pipe.vae.decode(latents.to(pipe.device) / pipe.vae.config.scaling_factor).clamp(-1.0, 1.0)


def _noise(
    tasks: Sequence[WindowTask], seed: int, shape: torch.Size, device: torch.device
) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Initial noise (b c l h w) and, for stochastic schedulers, the generators that go on from there."""
    windows = [task.window for task in tasks]
    generators = [noise_generator(seed, "window", window.level, window.index) for window in windows]
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.stack(noise).to(device), generators


def _time_ids(rows: int, sampling: Sampling, device: torch.device) -> torch.Tensor:
    """Fps, motion score, noise augmentation (none here) of each window: (b 3), NaN = not known."""
    motion = math.nan if sampling.motion_score is None else sampling.motion_score
    return torch.tensor([[sampling.fps, motion, 0.0]] * rows, device=device)


def check_steps(scheduler: SchedulerMixin, steps: int) -> None:
    """Raise NuwaError for more sampler steps than the noise schedule has."""
    most = scheduler.config.num_train_timesteps
    if steps > most:
        raise NuwaError(f"steps is {steps}; this model's noise schedule has {most}, so give at most that")


def _fresh(scheduler: SchedulerMixin, steps: int, device: torch.device) -> SchedulerMixin:
    """A scheduler of the same settings without the history of an earlier batch."""
    check_steps(scheduler, steps)
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(steps, device=device)
    return fresh
