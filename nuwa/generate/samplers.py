"""Samplers of windows: diffusers' schedulers on the noise schedule that a denoiser was trained with.

Every sampler walks from pure noise to clean latents and holds given frames at each step's own noise level. diffusers
rounds where the count does not divide the schedule: DDIM then walks to other noise levels than the denoiser is told
(data of mean 0.7 and variance 0.25 come out with 0.49 and 0.43 at 600 of 1000 steps), and trailing spacing of 61, 103 …
steps has one too many, at step −1. Here every count walks exactly the levels that the denoiser is told.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.hierarchy import NuwaError

SamplerName = Literal["trained", "ddpm", "ddim", "dpm++", "unipc"]
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noised latents (b c l h w) and diffusion steps (b,) to the prediction (b c l h w)."""

WALKED = (
    DDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
)
PURE_NOISE = 1e-6
"""ᾱ below which a step holds no signal; diffusers writes 2⁻²⁴ where it means 0."""


def check_steps(scheduler: SchedulerMixin, steps: int) -> None:
    """Raise NuwaError for more sampler steps than the noise schedule has."""
    most = scheduler.config.num_train_timesteps
    if steps > most:
        raise NuwaError(f"steps is {steps}; this model's noise schedule has {most}, so give at most that")


class Sampler:
    """One walk of a scheduler: `steps` steps of the sampler `name` on the noise schedule of `trained`.

    `trained` as name is that scheduler itself, the others space their steps so that the first is pure noise
    (trailing; Lin et al. 2023, arXiv 2305.08891) and end at the clean latents. It has a history: one walk each.

    timesteps: (n,), what the denoiser is told at each step
    Raises NuwaError for combinations that cannot work.
    """

    def __init__(self, trained: SchedulerMixin, name: SamplerName, steps: int, device: torch.device) -> None:
        check_steps(trained, steps)
        scheduler = _fresh(trained, name)
        _check_prediction(scheduler)
        scheduler.set_timesteps(steps)  # counted on the CPU: on a GPU every step would wait for its number
        _drop_extra_step(scheduler, steps)
        _check_walk(scheduler, steps)
        self.timesteps, self._labels = scheduler.timesteps.to(device), scheduler.timesteps
        if isinstance(scheduler, DDIMScheduler):
            self._labels = _respace(scheduler)
        elif not isinstance(scheduler, DDPMScheduler):
            scheduler.set_begin_index(0)  # steps are then counted, not searched for
        self._scheduler = scheduler

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """Where the walk begins; noise: (b …), standard normal."""
        return noise * self._scheduler.init_noise_sigma

    def noised(self, z0: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """Clean latents (b …) at the noise level before step `index`, in the scheduler's own scale."""
        return self._scheduler.add_noise(z0, noise, self._labels[index].expand(len(z0)))

    def model_input(self, zt: torch.Tensor, index: int) -> torch.Tensor:
        """What the denoiser sees of `zt` (b …): the same, but for schedulers that count in sigmas of unit signal."""
        return self._scheduler.scale_model_input(zt, self._labels[index])

    def step(
        self, prediction: torch.Tensor, index: int, zt: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        """One step: zt (b …) before step `index` to the next; a generator per row, for samplers that draw."""
        label = self._labels[index]
        if isinstance(self._scheduler, UniPCMultistepScheduler):
            return self._scheduler.step(prediction, label, zt, return_dict=False)[0]
        return self._scheduler.step(prediction, label, zt, generator=generators, return_dict=False)[0]


def denoise(
    predict: Predict,
    sampler: Sampler,
    noise: torch.Tensor,
    given: torch.Tensor,
    mask: torch.Tensor,
    generators: list[torch.Generator],
) -> torch.Tensor:
    """Clean latents (b c l h w) by walking `sampler` from `noise`; frames where mask = 1 are `given`, bitwise.

    Paper: how given frames are kept while sampling is not stated; here: before every step they are put back
    at the step's noise level, and after the last one exactly, so the frames between grow towards them. All samplers
    work element by element, multistep ones with their history too, so what is put back reaches the other frames
    through the denoiser only.
    """
    zt = sampler.start(noise)
    for index, timestep in enumerate(sampler.timesteps):
        zt = torch.where(mask > 0, sampler.noised(given, noise, index), zt)
        prediction = predict(sampler.model_input(zt, index), timestep.expand(len(zt)))
        zt = sampler.step(prediction, index, zt, generators)
    return torch.where(mask > 0, given, zt)


def _fresh(trained: SchedulerMixin, name: SamplerName) -> SchedulerMixin:
    """A scheduler without history, with the noise schedule and the prediction type of `trained`."""
    if name == "trained":
        if not isinstance(trained, WALKED):
            known = ", ".join(kind.__name__ for kind in WALKED)
            raise NuwaError(
                f"the pipeline's scheduler {type(trained).__name__} is not one of {known}; "
                "choose a sampler: ddim, ddpm, dpm++ or unipc"
            )
        return type(trained).from_config(trained.config)
    schedule = _noise_schedule(trained)
    match name:
        case "ddpm":
            return DDPMScheduler(**schedule, clip_sample=False)
        case "ddim":
            return DDIMScheduler(**schedule, clip_sample=False)
        case "dpm++":
            return DPMSolverMultistepScheduler(**schedule)
        case "unipc":
            return UniPCMultistepScheduler(**schedule)
    raise NuwaError(f"sampler {name!r} is unknown; use trained, ddpm, ddim, dpm++ or unipc")


def _noise_schedule(trained: SchedulerMixin) -> dict[str, Any]:
    """What all four samplers share: the trained betas and prediction type, and trailing steps."""
    config = trained.config
    return {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "trained_betas": config.trained_betas,
        "prediction_type": config.prediction_type,
        "rescale_betas_zero_snr": config.get("rescale_betas_zero_snr", False),
        "timestep_spacing": "trailing",
    }


def _check_prediction(scheduler: SchedulerMixin) -> None:
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise NuwaError(f"prediction_type {kind!r} cannot be sampled; train with epsilon or v_prediction")
    if kind == "epsilon" and scheduler.alphas_cumprod[-1] < PURE_NOISE:
        raise NuwaError(
            "prediction_type epsilon does not work on a schedule with rescale_betas_zero_snr: at its first step the "
            "noise is all there is and says nothing of the video; train with v_prediction, or without the rescaling"
        )


def _drop_extra_step(scheduler: SchedulerMixin, steps: int) -> None:
    """Trailing spacing adds up floats: for some counts one step, −1, is too many."""
    if len(scheduler.timesteps) != steps + 1 or scheduler.timesteps[-1] >= 0:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    scheduler.num_inference_steps = steps
    if not isinstance(scheduler, DDPMScheduler | DDIMScheduler):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])


def _check_walk(scheduler: SchedulerMixin, steps: int) -> None:
    """Raise NuwaError for steps that stand still or that never see the pure noise the walk begins with."""
    timesteps, name = scheduler.timesteps, type(scheduler).__name__
    spacing = scheduler.config.timestep_spacing
    if len(timesteps) != steps or (timesteps.diff() >= 0).any():
        raise NuwaError(
            f"{name} with timestep_spacing {spacing!r} cannot make {steps} different steps of "
            f"{scheduler.config.num_train_timesteps}; give fewer steps, or choose a sampler: ddim, dpm++ or unipc"
        )
    last = scheduler.config.num_train_timesteps - 1
    if scheduler.alphas_cumprod[-1] < PURE_NOISE and timesteps[0] != last:
        raise NuwaError(
            f"{name} with timestep_spacing {spacing!r} begins at step {int(timesteps[0])}, but this schedule is pure "
            f"noise at step {last} only; choose a sampler (ddim, ddpm, dpm++ or unipc: they begin there)"
        )


def _respace(scheduler: DDIMScheduler) -> torch.Tensor:
    """Leave only the noise levels of the walk in the schedule: its step is then always to the next of them.

    Returns (n,), the steps by their numbers in the shorter schedule.
    """
    steps = len(scheduler.timesteps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod[scheduler.timesteps.flip(0)]
    scheduler.num_inference_steps = steps
    scheduler.register_to_config(num_train_timesteps=steps)
    return torch.arange(steps - 1, -1, -1)
