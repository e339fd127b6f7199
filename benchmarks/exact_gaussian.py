"""Videos whose law is known, their exact denoiser, and the exact law of what the recursion makes with it.

A video is a stationary Gaussian process over time, the same and independent in every pixel. The best denoiser of a
window, at any stride and with any frames given, is then a matrix over its frames. Sampling with it is linear in the
noise, so the covariance of a generated video follows without drawing any: A Aᵀ, where A is what the recursion makes of
the basis of its noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from nuwa.evaluate.frechet import Gaussian, frechet_distance
from nuwa.generate.autoregressive import autoregressive, autoregressive_windows
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.samplers import Sampler, SamplerName, denoise
from nuwa.generate.windows import Sampling, WindowResult, WindowSampler, WindowTask
from nuwa.hierarchy import Window
from nuwa.train.components import new_scheduler

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

Floats = NDArray[np.float64]
GRAIN = 1e-4
"""Variance of white noise that every smooth process has: a hundredth of its contrast, like grain in film. It says how
exactly a few frames tell those that follow, so what autoregression loses with large overlaps depends on it."""


@dataclass(frozen=True)
class Process:
    """A stationary Gaussian process of unit variance over the frames of a video; ℓ in its name is in frames.

    covariance_at: covariance by distance in frames, (…) float64 → (…)
    """

    name: str
    covariance_at: Callable[[torch.Tensor], torch.Tensor]

    def covariance(self, frames: Sequence[int]) -> torch.Tensor:
        """Covariance of some frames of a video, (n n) float64."""
        places = torch.tensor(list(frames), dtype=torch.float64)
        return self.covariance_at((places[:, None] - places[None]).abs())


def squared_exponential(length_frames: float) -> Process:
    """k(d) = exp(−d² / 2ℓ²): motion that is smooth, and forgotten after a few ℓ."""

    def covariance_at(distance: torch.Tensor) -> torch.Tensor:
        return _grained(torch.exp(-0.5 * (distance / length_frames) ** 2), distance)

    return Process(f"squared exponential, ℓ = {length_frames:g}", covariance_at)


def matern(length_frames: float) -> Process:
    """Matérn 3/2, k(d) = (1 + √3 d/ℓ) exp(−√3 d/ℓ): speed is continuous, acceleration is not."""

    def covariance_at(distance: torch.Tensor) -> torch.Tensor:
        scaled = 3**0.5 * distance / length_frames
        return _grained((1 + scaled) * torch.exp(-scaled), distance)

    return Process(f"Matérn 3/2, ℓ = {length_frames:g}", covariance_at)


def first_order(length_frames: float) -> Process:
    """AR(1), k(d) = exp(−d/ℓ): a Markov chain, whose next frame depends on one frame only."""
    return Process(
        f"AR(1), ℓ = {length_frames:g}",
        lambda distance: torch.exp(-distance / length_frames),
    )


def together(slow: Process, slow_share: float, fast: Process) -> Process:
    """Sum of two independent processes: what stays, like a place or a hero, and what moves."""
    return Process(
        f"{slow_share:.0%} {slow.name} + {1 - slow_share:.0%} {fast.name}",
        lambda distance: slow_share * slow.covariance_at(distance) + (1 - slow_share) * fast.covariance_at(distance),
    )


def _grained(covariance: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    return (1 - GRAIN) * covariance + GRAIN * (distance == 0)


@dataclass(frozen=True)
class Conditional:
    """Law of the frames of a window that are not given: mean gain · given, covariance modes · variances · modesᵀ.

    known, unknown: positions in the window; gain: (u k); modes: (u u), orthonormal columns; variances: (u,)
    """

    known: list[int]
    unknown: list[int]
    gain: torch.Tensor
    modes: torch.Tensor
    variances: torch.Tensor

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Expected unknown frames (b c u h w) of given latents (b c l h w)."""
        return torch.einsum("uk,bckhw->bcuhw", self.gain, given[:, :, self.known])

    def scaled(self, frames: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Frames (b c u h w), each mode times its own factor (u,)."""
        return torch.einsum("um,m,vm,bcvhw->bcuhw", self.modes, factors, self.modes, frames)


def conditional(covariance: torch.Tensor, given: Sequence[bool]) -> Conditional:
    """The law of unknown frames, from the covariance (l l) of all of a window."""
    known = [place for place, is_given in enumerate(given) if is_given]
    unknown = [place for place, is_given in enumerate(given) if not is_given]
    across = covariance[unknown][:, known]
    gain = torch.linalg.solve(covariance[known][:, known], across, left=False)
    spread = covariance[unknown][:, unknown] - gain @ across.T
    variances, modes = torch.linalg.eigh((spread + spread.T) / 2)
    return Conditional(known, unknown, gain, modes, variances.clamp_min(0.0))


class ExactDenoiser:
    """E[v | zt, given frames] of a process, called like any denoiser; windows of a batch have one mask and one stride.

    scheduler: its noise schedule, with v_prediction
    """

    def __init__(self, process: Process, scheduler: DDIMScheduler) -> None:
        assert scheduler.config.prediction_type == "v_prediction"
        self.process, self.abar = process, scheduler.alphas_cumprod.double()
        self.law = lru_cache(None)(self._law)

    def _law(self, given: tuple[bool, ...], stride: int) -> Conditional:
        frames = [stride * place for place in range(len(given))]
        return conditional(self.process.covariance(frames), given)

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        added_time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """v (b c t h w) of sample (b c t h w), in its precision; condition (b c t h w) holds the given latents."""
        assert condition is not None
        assert mask is not None
        assert stride is not None
        known, strides = mask[:, 0, :, 0, 0] > 0, stride.tolist()  # b t
        assert bool((known == known[0]).all())
        assert len(set(strides)) == 1
        law = self.law(tuple(known[0].tolist()), int(strides[0]))
        abar = self.abar[int(timestep[0])]
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        zt, z0 = sample.double(), condition.double().clone()
        mean = law.mean(z0)
        shares = alpha * law.variances / (abar * law.variances + 1 - abar)
        z0[:, :, law.unknown] = mean + law.scaled(zt[:, :, law.unknown] - alpha * mean, shares)
        return ((alpha * zt - z0) / sigma).to(sample)  # v = alpha eps − sigma z_0 with eps = (zt − alpha z_0) / sigma


class BasisSampler:
    """Samples windows in float64 from the basis of all the noise of a video instead of from noise.

    Latents are (1 l 1 p): "pixel" p of a frame is what noise number p, of the p numbers that all windows take, adds to
    it. steps: of `sampler`, or None for the limit of infinitely many, the end of the probability flow.
    """

    def __init__(
        self, process: Process, windows: Sequence[Window], length: int, steps: int | None, sampler: SamplerName = "ddim"
    ) -> None:
        self.sampling = Sampling(steps=steps or 1, guidance=1.0, batch=16, sampler=sampler, condition="latents")
        self.scheduler = new_scheduler("v_prediction")
        self.denoiser = ExactDenoiser(process, self.scheduler)
        self.length, self.is_limit = length, steps is None
        self.first_noise = {window: number * length for number, window in enumerate(windows)}

    def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[WindowResult]:
        """Windows of one level, with the same positions given."""
        shape = (len(tasks), 1, self.length, 1, self.length * len(self.first_noise))
        noise, given = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        mask = torch.zeros(*shape[:4], 1, dtype=torch.float64)
        for row, task in enumerate(tasks):
            first = self.first_noise[task.window]
            noise[row, 0, :, 0, first : first + self.length] = torch.eye(self.length)
            for place, frame in task.given.items():
                given[row, :, place] = frame.latent
                mask[row, :, place] = 1.0
        stride = torch.tensor([task.window.stride for task in tasks])
        latents = self._limit(noise, given, mask, stride) if self.is_limit else self._walk(noise, given, mask, stride)
        return [WindowResult(row, row if pixels else None) for row in latents]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents themselves: there is no autoencoder."""
        return latents

    def _walk(self, noise: torch.Tensor, given: torch.Tensor, mask: torch.Tensor, stride: torch.Tensor) -> torch.Tensor:
        """The sampler of generation, step by step."""

        def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            return self.denoiser(zt, steps, zt[:, 0, :, :, :1], given, mask, stride)

        sampler = Sampler(self.scheduler, self.sampling.sampler, self.sampling.steps_at(0), torch.device("cpu"))
        return denoise(predict, sampler, noise, given, mask, [torch.Generator()] * len(noise))

    def _limit(
        self, noise: torch.Tensor, given: torch.Tensor, mask: torch.Tensor, stride: torch.Tensor
    ) -> torch.Tensor:
        """Where the probability flow ends: every mode of the noise times its standard deviation, and the mean."""
        law = self.denoiser.law(tuple((mask[0, 0, :, 0, 0] > 0).tolist()), int(stride[0]))
        latents = given.clone()
        latents[:, :, law.unknown] = law.mean(given) + law.scaled(noise[:, :, law.unknown], law.variances.sqrt())
        return latents


def by_diffusion_over_diffusion(
    process: Process,
    num_frames: int,
    length: int,
    steps: int | None,
    depth: int | None = None,
    sampler: SamplerName = "ddim",
) -> Floats:
    """A (n p): a video of `num_frames` by `generate_latents` is A times its noise."""
    video = frame_plan([""] * num_frames, length, depth)
    windows = [window for level in video.levels for window in level]
    basis = BasisSampler(process, windows, length, steps, sampler)
    return generate_latents(video, LocalExecutor(cast(WindowSampler, basis)))[0, :, 0].numpy()


def by_autoregression(
    process: Process,
    num_frames: int,
    length: int,
    overlap: int,
    steps: int | None,
    sampler: SamplerName = "ddim",
) -> Floats:
    """A (n p): a video of `num_frames` by `autoregressive` is A times its noise."""
    windows = autoregressive_windows(num_frames, length, overlap)
    basis = BasisSampler(process, windows, length, steps, sampler)
    parts = autoregressive(cast(WindowSampler, basis), [""] * num_frames, length, overlap)
    return torch.cat([part.latents for part in parts], dim=1)[0, :, 0].numpy()


def distance_per_frame(process: Process, made: Floats) -> float:
    """Squared 2-Wasserstein distance between the law of generated videos and the true one, over the number of frames.

    made: A (n p), as the two functions above give it. Both laws are Gaussian of mean 0, so this is their Fréchet
    distance (Dowson and Landau 1982).
    """
    return _distance(process.covariance(range(len(made))), made) / len(made)


def distance_of_blocks(process: Process, made: Floats, block: int) -> Floats:
    """The same of every whole block of `block` frames by itself, per frame: (n // block,). It sees no further."""
    truth = process.covariance(range(block))
    starts = range(0, len(made) - block + 1, block)
    return np.array([_distance(truth, made[start : start + block]) for start in starts]) / block


def _distance(covariance: torch.Tensor, made: Floats) -> float:
    variances, modes = torch.linalg.eigh(covariance)
    root = (variances.clamp_min(0.0).sqrt()[:, None] * modes.T).numpy()
    nothing = np.zeros(len(made))
    return frechet_distance(Gaussian(nothing, root), Gaussian(nothing, made.T))


def ideal_pipeline(process: Process, length: int, side: int) -> "NuwaXLPipeline":
    """What `WindowSampler` asks of a pipeline: the exact denoiser, no autoencoder, `side`² independent pixels.

    Generation runs with it as with any other, noise, batches, recursion and samplers its own; `Sampling` needs
    `condition="latents"` and guidance 1.
    """
    scheduler = new_scheduler("v_prediction")
    denoiser = ExactDenoiser(process, scheduler)
    pipe = SimpleNamespace(
        scheduler=scheduler,
        device=torch.device("cpu"),
        config=SimpleNamespace(window_length=length, height=side, width=side),
        vae=SimpleNamespace(
            config=SimpleNamespace(scaling_factor=1.0, latent_channels=1),
            downsample_factor=1,
            decode=lambda latents: latents,
        ),
        encode_prompts=lambda prompts: torch.zeros(len(prompts), 1, 1),
        denoiser_at=lambda level: denoiser,
    )
    return cast("NuwaXLPipeline", pipe)
