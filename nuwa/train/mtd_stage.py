"""mtd: the denoiser of windows learns from windows of L frames at every stride."""

import copy
from collections.abc import Sequence

import torch
from einops import repeat

from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import strides
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.train import draws as random_draws
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.draws import generator
from nuwa.train.given_frames import Given, ends, given_frames, shares_of
from nuwa.train.memory import LatentMemory
from nuwa.train.samples import Shown, check_walk, story
from nuwa.train.stages import Diffusion, Losses, grouped, rebuilt, video_of, windows_of


class MtdStage:
    """mtd: Mask Temporal Diffusion on windows at all strides (NUWA-XL Sec. 3.2, Eq. 5).

    Target = E(window), condition = E(window with unknown frames zeroed in pixel space) or, by config, the target with
    unknown frames zeroed. At the largest stride nothing is given, at the others the first and last frame; shares of
    the windows learn other masks (given_frames.py).
    """

    adversary = None

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.levels = _levels(config)
        all_strides = strides(config.window_length, config.depth)
        self.data = windows_of(runs, config, [all_strides[level] for level in self.levels])
        self.pattern = tuple(range(len(self.levels)))
        self.vae = pipe.vae.to(device).eval().requires_grad_(False)
        self.module: MaskTemporalUNet = _trained_denoiser(config, pipe).to(device).requires_grad_(True)
        if config.gradient_checkpointing:
            self.module.enable_gradient_checkpointing()
        self.shares, self.ends = shares_of(config), ends(config.window_length)
        self.diffusion = Diffusion(config, pipe, device)
        check_walk(pipe.scheduler, config)
        self.memory = LatentMemory(config.latent_cache_mb * 2**20)

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Denoising loss, and that of the windows at each level and in each tenth of the noise."""
        given = self._given(samples, draws)
        latents = [self._latents(sample, known=None) for sample in samples]
        z0 = torch.stack(latents).to(self.device)  # b c t h w
        condition = torch.stack([self._condition(*each) for each in zip(samples, latents, given, strict=True)])
        mask = repeat(torch.tensor(given), "b t -> b 1 t h w", h=z0.shape[3], w=z0.shape[4]).to(z0)
        tokens = self.diffusion.tokens(samples, draws)
        stride = torch.tensor([sample.stride for sample in samples], device=self.device)
        noise_levels = self._noise_levels(draws)
        condition = self._noised(condition, noise_levels, draws).to(self.device)
        known = (condition, mask, stride, self._time_ids(samples, noise_levels, draws))
        per_window = self.diffusion.loss(self.module, z0, tokens, draws, *known)
        levels = [self.levels[sample.level] for sample in samples]
        return self.diffusion.losses(per_window, draws) | grouped("loss/level", per_window.detach(), levels)

    def _given(self, samples: Sequence[WindowSample], draws: range) -> list[Given]:
        """Which frames of each window are given."""
        where = (self.config.window_length, self.config.seed)
        levels = [self.levels[sample.level] for sample in samples]
        return [given_frames(self.shares, level, *where, draw) for level, draw in zip(levels, draws, strict=True)]

    def _condition(self, sample: WindowSample, latents: torch.Tensor, known: Given) -> torch.Tensor:
        """z_c (c t h w): encoded with unknown frames zeroed, or by the shortcut its latents with zeros for them.

        Paper: the former. By the latter, given frames know a little of their true neighbours, which in generation are
        those of the window above.
        """
        if self.config.condition == "latents":
            return latents * torch.tensor(known)[:, None, None]
        return self._latents(sample, known)

    def _latents(self, sample: WindowSample, known: Given | None) -> torch.Tensor:
        """Scaled latents of a window (c t h w): all of it, or with frames that are not `known` zeroed."""
        if known is None or known == self.ends:
            return self.memory.recall((sample.index, known is None), lambda: self._encode(sample, known))
        if not any(known):
            return self.memory.recall((-1,), lambda: self._encode(sample, known))
        # Hardly any other mask meets its window again: it is not kept, but rounded as if it were.
        return self._encode(sample, known).half().float().cpu()

    @torch.no_grad()
    def _encode(self, sample: WindowSample, known: Given | None) -> torch.Tensor:
        video = video_of([sample], self.device)
        if known is not None:
            video = video * torch.tensor(known, device=self.device)[:, None, None]  # b c t h w
        return self.vae.encode(video).mode()[0].float() * self.vae.config.scaling_factor

    def _noise_levels(self, draws: range) -> list[float]:
        """Standard deviation of the noise on each window's condition, uniform up to the most that is asked for."""
        most, seed = self.config.condition_noise, self.config.seed
        return [most * float(torch.rand((), generator=generator(seed, "condition level", draw))) for draw in draws]

    def _noised(self, condition: torch.Tensor, noise_levels: Sequence[float], draws: range) -> torch.Tensor:
        """The condition (b c t h w) with noise on it, as frames that were sampled have errors (noise augmentation).

        Stable Video Diffusion puts noise on pixels before they are encoded; here: on latents, which stay cached.
        """
        if self.config.condition_noise == 0:
            return condition
        generators = [generator(self.config.seed, "condition noise", draw) for draw in draws]
        eps = torch.stack([torch.randn(condition.shape[1:], generator=each) for each in generators])
        return condition + torch.tensor(noise_levels)[:, None, None, None, None] * eps

    def _time_ids(self, samples: Sequence[WindowSample], noise_levels: Sequence[float], draws: range) -> torch.Tensor:
        """(b, 3): fps, motion score, noise on the condition; NaN stands for not known."""
        rate, seed = self.config.condition_dropout, self.config.seed
        hidden = [random_draws.happens(seed, purpose, draws, rate) for purpose in ("fps", "motion", "augmentation")]
        numbers = torch.tensor([[s.fps, s.motion_score, n] for s, n in zip(samples, noise_levels, strict=True)])
        return numbers.masked_fill(torch.tensor(hidden).T, float("nan")).to(self.device)

    def show(self) -> Shown:
        """A short story by the whole pipeline."""
        pipe = self._pipeline_with(self.module)
        for level in range(2):
            pipe.denoiser_at(level).to(self.device)
        return story(pipe, self.data.runs, self.config)

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with this denoiser at the levels it was trained for."""
        return self._pipeline_with(copy.deepcopy(self.module))

    def _pipeline_with(self, trained: MaskTemporalUNet) -> NuwaXLPipeline:
        length = self.config.window_length
        if self.config.levels == "global":
            local = self.pipe.denoiser_local or self.pipe.denoiser_global
            return rebuilt(self.pipe, denoiser_global=trained, denoiser_local=local, window_length=length)
        if self.config.levels == "local":
            return rebuilt(self.pipe, denoiser_local=trained, window_length=length)
        return rebuilt(self.pipe, denoiser_global=trained, denoiser_local=trained, window_length=length)


def _levels(config: TrainConfig) -> list[int]:
    levels = {"global": [0], "local": list(range(1, config.depth)), "all": list(range(config.depth))}[config.levels]
    if not levels:
        raise TrainError(f"depth {config.depth} has no local levels; give a depth of at least 2, or --levels global")
    return levels


def _trained_denoiser(config: TrainConfig, pipe: NuwaXLPipeline) -> MaskTemporalUNet:
    """A copy of the network to train, so that the one in `pipe` stays as it was."""
    source = pipe.denoiser_local if config.levels == "local" else None
    return copy.deepcopy(source or pipe.denoiser_global)
