"""Samplers of windows: diffusers' schedulers, made from the noise schedule that a denoiser was trained with."""

from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.hierarchy import NuwaError

SamplerName = Literal["trained", "ddpm", "ddim", "dpm++", "unipc"]


def check_steps(scheduler: SchedulerMixin, steps: int) -> None:
    """Raise NuwaError for more sampler steps than the noise schedule has."""
    most = scheduler.config.num_train_timesteps
    if steps > most:
        raise NuwaError(f"steps is {steps}; this model's noise schedule has {most}, so give at most that")


def new_sampler(trained: SchedulerMixin, name: SamplerName, steps: int, device: torch.device) -> SchedulerMixin:
    """A scheduler without history, set to `steps`, with the noise schedule and prediction type of `trained`."""
    check_steps(trained, steps)
    fresh = _scheduler(trained, name)
    fresh.set_timesteps(steps, device=device)
    return fresh


def _scheduler(trained: SchedulerMixin, name: SamplerName) -> SchedulerMixin:
    settings: dict[str, Any] = {**trained.config, "timestep_spacing": "trailing", "clip_sample": False}
    match name:
        case "trained":
            return type(trained).from_config(trained.config)
        case "ddpm":
            return DDPMScheduler.from_config(settings)
        case "ddim":
            return DDIMScheduler.from_config(settings)
        case "dpm++":
            return DPMSolverMultistepScheduler.from_config(settings)
        case "unipc":
            return UniPCMultistepScheduler.from_config(settings)
    raise NuwaError(f"sampler {name!r} is unknown; use trained, ddpm, ddim, dpm++ or unipc")
