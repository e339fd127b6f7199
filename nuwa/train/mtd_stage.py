"""mtd: the denoiser of windows learns from windows of L frames at every stride."""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from einops import rearrange, repeat

from nuwa.data.latents import Half
from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import strides
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.train import draws as random_draws
from nuwa.train.config import TrainConfig
from nuwa.train.data_checks import trained_levels
from nuwa.train.draws import generator
from nuwa.train.encoded import encoded_windows
from nuwa.train.given_frames import Given, ends, first_frames, given_frames, shares_of
from nuwa.train.memory import LatentMemory
from nuwa.train.samples import Shown, check_walk, story
from nuwa.train.stages import Diffusion, Losses, grouped, pattern_of, pixels_of, rebuilt, windows_of


class MtdStage:
    """mtd: Mask Temporal Diffusion on windows at all strides (NUWA-XL Sec. 3.2, Eq. 5).

    Target = E(window), condition = E(window with unknown frames zeroed in pixel space) or, by config, the target with
    unknown frames zeroed. At the largest stride nothing is given, at the others the first and last frame; shares of
    the windows learn other masks (given_frames.py).
    """

    adversary = None

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.levels = trained_levels(config)
        all_strides = strides(config.window_length, config.depth)
        stride_of_level = {level: all_strides[level] for level in self.levels}
        encoded = encoded_windows(config, pipe.vae, runs, stride_of_level)
        self.data = windows_of(runs, config, list(stride_of_level.values()), encoded)
        self.pattern = pattern_of(config, len(self.levels))
        self.vae = pipe.vae.to(device).eval().requires_grad_(False)
        self.module: MaskTemporalUNet = _trained_denoiser(config, pipe).to(device).requires_grad_(True)
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
        per_window = self.diffusion.loss(self._denoiser(samples), z0, tokens, draws, *known)
        return self.diffusion.losses(per_window, draws) | self._by_level(per_window.detach(), samples)

    def _denoiser(self, samples: Sequence[WindowSample]) -> Denoiser:
        """The network; where there are images, told which rows they are."""
        mixes = [sample.mixes_frames for sample in samples]
        if all(mixes):
            return self.module
        network: Callable[..., torch.Tensor] = self.module
        return partial(network, mixes_frames=torch.tensor(mixes, device=self.device))

    def _by_level(self, per_window: torch.Tensor, samples: Sequence[WindowSample]) -> Losses:
        """`loss/level_k` of the windows, `loss/images` of the rows of images; each (n,) of `per_window` (b,)."""
        videos = [row for row, sample in enumerate(samples) if sample.mixes_frames]
        images = [row for row, sample in enumerate(samples) if not sample.mixes_frames]
        found = grouped("loss/level", per_window[videos], [self.levels[samples[row].level] for row in videos])
        return found | ({"loss/images": per_window[images]} if images else {})

    def _given(self, samples: Sequence[WindowSample], draws: range) -> list[Given]:
        """Which frames of each window are given."""
        where = (self.config.window_length, self.config.seed)
        return [
            given_frames(self.shares, self.levels[sample.level], *where, draw)
            if sample.mixes_frames
            else first_frames(0, self.config.window_length)
            for sample, draw in zip(samples, draws, strict=True)
        ]

    def _condition(self, sample: WindowSample, latents: torch.Tensor, known: Given) -> torch.Tensor:
        """z_c (c t h w): encoded with unknown frames zeroed, or by the shortcut its latents with zeros for them.

        Paper: the former. By the latter, given frames know a little of their true neighbours, which in generation are
        those of the window above.
        """
        if not any(known) and not sample.mixes_frames:
            return torch.zeros_like(latents)  # nor is it read, where nothing is given
        if self.config.condition == "latents":
            return latents * torch.tensor(known)[:, None, None]
        return self._latents(sample, known)

    def _latents(self, sample: WindowSample, known: Given | None) -> torch.Tensor:
        """Scaled latents of a window (c t h w): all of it, or with frames that are not `known` zeroed."""
        if (stored := self._stored(sample, known)) is not None:
            return torch.from_numpy(stored).float()
        if known is None or known == self.ends:
            return self.memory.recall((sample.index, known is None), lambda: self._encode(sample, known))
        if not any(known):
            return self.memory.recall((-1,), lambda: self._encode(sample, known))
        # Hardly any other mask meets its window again: it is not kept, but rounded as if it were.
        return self._encode(sample, known).half().float().cpu()

    def _stored(self, sample: WindowSample, known: Given | None) -> Half | None:
        """The same (c t h w) as it was encoded before; None for what was not."""
        if sample.latents is None or self.data.encoded is None:
            return None
        if known is None:
            return sample.latents.mean
        if not any(known):
            return self.data.encoded.nothing(self.data.runs[0])
        return sample.latents.ends if known == self.ends else None

    @torch.no_grad()
    def _encode(self, sample: WindowSample, known: Given | None) -> torch.Tensor:
        frames = sample.frames if sample.latents is None else self.data.frames(sample.index)
        video = pixels_of(frames[None], self.device)
        if known is not None:
            video = video * torch.tensor(known, device=self.device)[:, None, None]  # b c t h w
        if not sample.mixes_frames:
            video = rearrange(video, "1 c t h w -> t c 1 h w")  # an image is a video of one frame
        # In full precision whatever the networks train in, so that latents are those of `pipelines.encode`.
        with torch.autocast(self.device.type, enabled=False):
            latents = self.vae.encode(video).mode().float() * self.vae.config.scaling_factor
        return latents[0] if sample.mixes_frames else rearrange(latents, "t c 1 h w -> c t h w")

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
        pipe = self.pipeline()
        for level in range(2):
            pipe.denoiser_at(level).to(self.device)
        return story(pipe, self.data.runs, self.config)

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with this denoiser at the levels it was trained for."""
        trained, length = self.module, self.config.window_length
        if self.config.levels == "global":
            local = self.pipe.denoiser_local or self.pipe.denoiser_global
            return rebuilt(self.pipe, denoiser_global=trained, denoiser_local=local, window_length=length)
        if self.config.levels == "local":
            return rebuilt(self.pipe, denoiser_local=trained, window_length=length)
        return rebuilt(self.pipe, denoiser_global=trained, denoiser_local=trained, window_length=length)


def _trained_denoiser(config: TrainConfig, pipe: NuwaXLPipeline) -> MaskTemporalUNet:
    """The network to train: one of `pipe`, or a copy where the other levels keep that one."""
    if config.levels == "local" and pipe.denoiser_local is not None:
        return pipe.denoiser_local
    serves_others = config.levels != "all" and pipe.denoiser_local is None
    return copy.deepcopy(pipe.denoiser_global) if serves_others else pipe.denoiser_global
