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
from nuwa.train.memory import LatentMemory
from nuwa.train.stages import Diffusion, Losses, rebuilt, video_of, windows_of


class MtdStage:
    """mtd: Mask Temporal Diffusion on windows at all strides (NUWA-XL Sec. 3.2, Eq. 5).

    Target = E(window), condition = E(window with unknown frames zeroed in pixel space). At the largest stride
    nothing is given; at the others the first and last frame, but for a share of windows also nothing.
    """

    adversary = None

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.levels = _levels(config)
        all_strides = strides(config.length, config.depth)
        self.data = windows_of(runs, config, [all_strides[level] for level in self.levels])
        self.pattern = tuple(range(len(self.levels)))
        self.vae = pipe.vae.to(device).eval().requires_grad_(False)
        self.module: MaskTemporalUNet = _trained_denoiser(config, pipe).to(device).requires_grad_(True)
        self.diffusion = Diffusion(config, pipe, device)
        self.memory = LatentMemory(config.latent_cache_mb * 2**20)

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Denoising loss, and its part at each level."""
        given = self._given(samples, draws)
        z0 = torch.stack([self._latents(sample, known=None) for sample in samples]).to(self.device)  # b c t h w
        condition = torch.stack([self._latents(s, known=k) for s, k in zip(samples, given, strict=True)])
        mask = repeat(torch.tensor(given), "b t -> b 1 t h w", h=z0.shape[3], w=z0.shape[4]).to(z0)
        tokens = self.diffusion.tokens(samples, draws)
        stride = torch.tensor([sample.stride for sample in samples], device=self.device)
        known = (condition.to(self.device), mask, stride, self._time_ids(samples, draws))
        per_window = self.diffusion.loss(self.module, z0, tokens, draws, *known)
        return {"loss": per_window.mean()} | self._by_level(per_window.detach(), samples)

    def _given(self, samples: Sequence[WindowSample], draws: range) -> list[tuple[bool, ...]]:
        """Which frames of each window are given: none, or the first and the last."""
        emptied = random_draws.happens(self.config.seed, "mask", draws, self.config.global_mask_frac)
        ends = tuple(frame in (0, self.config.length - 1) for frame in range(self.config.length))
        nothing = (False,) * self.config.length
        return [
            nothing if empty or self.levels[sample.level] == 0 else ends
            for sample, empty in zip(samples, emptied, strict=True)
        ]

    def _latents(self, sample: WindowSample, known: tuple[bool, ...] | None) -> torch.Tensor:
        """Scaled latents of a window (c t h w): all of it, or with frames that are not `known` zeroed."""
        if known is not None and not any(known):
            return self.memory.recall((-1,), lambda: self._encode(sample, known))
        return self.memory.recall((sample.index, known is None), lambda: self._encode(sample, known))

    @torch.no_grad()
    def _encode(self, sample: WindowSample, known: tuple[bool, ...] | None) -> torch.Tensor:
        video = video_of([sample], self.device)
        if known is not None:
            video = video * torch.tensor(known, device=self.device)[:, None, None]  # b c t h w
        return self.vae.encode(video).mode()[0].float() * self.vae.config.scaling_factor

    def _time_ids(self, samples: Sequence[WindowSample], draws: range) -> torch.Tensor:
        """(b, 3): fps, motion score, noise augmentation (always 0 here); NaN stands for not known."""
        rate, seed = self.config.condition_dropout, self.config.seed
        hidden = [random_draws.happens(seed, purpose, draws, rate) for purpose in ("fps", "motion", "augmentation")]
        numbers = torch.tensor([[sample.fps, sample.motion_score, 0.0] for sample in samples])
        return numbers.masked_fill(torch.tensor(hidden).T, float("nan")).to(self.device)

    def _by_level(self, per_window: torch.Tensor, samples: Sequence[WindowSample]) -> Losses:
        rows: dict[int, list[int]] = {}
        for row, sample in enumerate(samples):
            rows.setdefault(self.levels[sample.level], []).append(row)
        return {f"loss/level_{level}": per_window[where].mean() for level, where in sorted(rows.items())}

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with this denoiser at the levels it was trained for."""
        trained = copy.deepcopy(self.module)
        if self.config.levels == "global":
            local = self.pipe.denoiser_local or self.pipe.denoiser_global
            return rebuilt(self.pipe, self.config, denoiser_global=trained, denoiser_local=local)
        if self.config.levels == "local":
            return rebuilt(self.pipe, self.config, denoiser_local=trained)
        return rebuilt(self.pipe, self.config, denoiser_global=trained, denoiser_local=trained)


def _levels(config: TrainConfig) -> list[int]:
    levels = {"global": [0], "local": list(range(1, config.depth)), "all": list(range(config.depth))}[config.levels]
    if not levels:
        raise TrainError(f"depth {config.depth} has no local levels; give a depth of at least 2, or --levels global")
    return levels


def _trained_denoiser(config: TrainConfig, pipe: NuwaXLPipeline) -> MaskTemporalUNet:
    """A copy of the network to train, so that the one in `pipe` stays as it was."""
    source = pipe.denoiser_local if config.levels == "local" else None
    return copy.deepcopy(source or pipe.denoiser_global)
