"""What a training stage is, data, trained weights and a loss; and the stage of the image denoiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import nn

from nuwa.data.encoded_windows import EncodedWindows
from nuwa.data.pattern import level_pattern
from nuwa.data.runs import Frames, Run
from nuwa.data.tables import DataError
from nuwa.data.windows import WindowDataset, WindowSample
from nuwa.diffusion.objective import Denoiser, denoising_loss, min_snr_weights
from nuwa.generate.folder_pipeline import FolderPipeline
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.vae import TemporalVAE
from nuwa.train import draws as random_draws
from nuwa.train.captions import sampled_prompts
from nuwa.train.config import TrainConfig
from nuwa.train.encoded import encoded_frames, encoded_prompts
from nuwa.train.memory import LatentMemory, PromptMemory
from nuwa.train.samples import PICTURES, Shown, check_walk, pictures, prompts_of

Losses = dict[str, torch.Tensor]
NOISE_BINS = 10
"""Equal parts of the diffusion steps whose losses are told apart."""


@dataclass
class Adversary:
    """What a stage learns against: an optimiser of its own changes `module` to lower the loss named `discriminator`.

    playing: whether it takes part in the next step; the loop says so.
    """

    module: nn.Module
    playing: bool = False


class Stage(Protocol):
    """One training stage.

    data: the windows; pattern: the levels of `data` that draws take in turn; module: holds the weights that
    train (those that require a gradient).
    """

    data: WindowDataset
    pattern: tuple[int, ...]

    @property
    def module(self) -> nn.Module:
        """The weights."""

    @property
    def adversary(self) -> Adversary | None:
        """What the module learns against, if anything."""

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Numbers by name, one or, where not all windows count, one for each that does; `loss` is to be minimised.

        `draws` number the random draws of the samples.
        """

    def show(self) -> Shown:
        """A sample by the module's present weights, in eval mode, without gradients."""

    def pipeline(self) -> FolderPipeline:
        """The complete pipeline with the module's weights in their place, good until the next step or call."""


def video_of(samples: Sequence[WindowSample], device: torch.device) -> torch.Tensor:
    """Pixels of samples: (b c t h w), float32 in [−1, 1]."""
    return pixels_of(np.stack([sample.frames for sample in samples]), device)


def pixels_of(frames: Frames, device: torch.device) -> torch.Tensor:
    """Pixels of frames (b t h w c): (b c t h w), float32 in [−1, 1].

    Contiguous, as group norm is slow in channels-last memory.
    """
    on_device = torch.from_numpy(frames).to(device)
    return rearrange(on_device, "b t h w c -> b c t h w").contiguous().float() / 127.5 - 1.0


def rebuilt(
    pipe: NuwaXLPipeline,
    *,
    window_length: int | None = None,
    vae: TemporalVAE | None = None,
    denoiser_global: MaskTemporalUNet | None = None,
    denoiser_local: MaskTemporalUNet | None = None,
) -> NuwaXLPipeline:
    """`pipe` with the given parts, and the length of the windows they learned from, in place of its own."""
    return NuwaXLPipeline(
        vae=vae or pipe.vae,
        denoiser_global=denoiser_global or pipe.denoiser_global,
        denoiser_local=denoiser_local or pipe.denoiser_local,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=pipe.scheduler,
        window_length=window_length or pipe.config.window_length,
        train_fps=pipe.config.train_fps,
        height=pipe.config.height,
        width=pipe.config.width,
    )


def frames_of(runs: Sequence[Run], config: TrainConfig, encoded: EncodedWindows | None = None) -> WindowDataset:
    """Single frames of all runs."""
    cache_bytes = config.frame_cache_mb * 2**20
    return WindowDataset(runs, length=1, strides=(1,), hop=config.hop, cache_bytes=cache_bytes, encoded=encoded)


def windows_of(
    runs: Sequence[Run], config: TrainConfig, at_strides: Sequence[int], encoded: EncodedWindows | None = None
) -> WindowDataset:
    """Windows of the length asked for at the given strides, and rows of images if a share of the rows is asked for."""
    try:
        return WindowDataset(
            runs,
            length=config.window_length,
            strides=at_strides,
            hop=config.hop,
            cache_bytes=config.frame_cache_mb * 2**20,
            encoded=encoded,
            images=config.image_frac > 0,
        )
    except DataError as error:
        if config.where is None:
            raise
        raise DataError(f"{error}; or choose more runs: where is {config.where!r}") from error


def pattern_of(config: TrainConfig, num_levels: int) -> tuple[int, ...]:
    """Levels of the windows that draws take in turn; rows of images, if any, are one more level."""
    return level_pattern(config.level_shares or [1.0] * num_levels, config.image_frac)


class ImageStage:
    """image: a UNet2DConditionModel on latents of single frames with their prompts."""

    CHUNK = 64
    adversary = None

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.vae = pipe.vae.image_vae().to(device).eval().requires_grad_(False)
        self.data = frames_of(runs, config, encoded_frames(config, self.vae, runs))
        self.pattern: tuple[int, ...] = (0,)
        self.module = pipe.denoiser_global.image_unet().to(device).requires_grad_(True)
        self.diffusion = Diffusion(config, pipe, device)
        check_walk(pipe.scheduler, config)
        self.latents = LatentMemory(config.latent_cache_mb * 2**20)
        # Frames are encoded in chunks that are always the same, so that their latents are too, to the last bit.
        self.chunk = self.CHUNK if len(self.data) * self._latent_bytes() <= self.latents.budget_bytes else 1

    def _latent_bytes(self) -> int:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        run = self.data.runs[0]
        return 2 * self.vae.config.latent_channels * (run.height // factor) * (run.width // factor)

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Denoising loss of single latents."""
        z0 = torch.stack([self._latent(sample) for sample in samples]).to(self.device)  # b c h w
        tokens = self.diffusion.tokens(samples, draws)[:, 0]  # b n d
        return self.diffusion.losses(self.diffusion.loss(self._predict, z0, tokens, draws), draws)

    def _predict(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        added_time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The 2-D U-Net behind the denoiser's call: (b c h w), with nothing known of a window."""
        predicted: torch.Tensor = self.module(sample, timestep, encoder_hidden_states).sample
        return predicted

    def _latent(self, sample: WindowSample) -> torch.Tensor:
        if sample.latents is not None:
            return torch.from_numpy(sample.latents.mean[:, 0]).float()  # c h w
        number, place = divmod(sample.index, self.chunk)
        return self.latents.recall((number,), lambda: self._encode(number))[place]

    @torch.no_grad()
    def _encode(self, number: int) -> torch.Tensor:
        stop = min(len(self.data), (number + 1) * self.chunk)
        samples = [self.data[index] for index in range(number * self.chunk, stop)]
        pixels = video_of(samples, self.device)[:, :, 0]
        # In full precision whatever the networks train in, so that latents are those of `pipelines.encode`.
        with torch.autocast(self.device.type, enabled=False):
            return self.vae.encode(pixels).latent_dist.mode().float() * self.pipe.vae.config.scaling_factor

    @torch.no_grad()
    def show(self) -> Shown:
        """Pictures of a few prompts."""
        prompts, factor = prompts_of(self.data.runs, PICTURES), 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = self.data.runs[0].height // factor, self.data.runs[0].width // factor
        tokens = self.diffusion.prompts.tokens(["", *prompts]).to(self.device)
        shape = (self.vae.config.latent_channels, height, width)
        latents = pictures(self._predict, self.pipe.scheduler, tokens, shape, self.config)
        return Shown.pictures(self.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample)

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with these spatial weights at every level; temporal layers stay as they were."""
        for denoiser in (self.pipe.denoiser_global, self.pipe.denoiser_local):
            if denoiser is not None:
                denoiser.load_image_state(self.module.state_dict())
        return self.pipe


def grouped(name: str, per_window: torch.Tensor, groups: Sequence[int]) -> Losses:
    """`name`_k for every k among `groups` (b): the numbers (n,) of `per_window` (b,) that belong to it."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return {f"{name}_{group}": per_window[where] for group, where in sorted(rows.items())}


class Diffusion:
    """What the denoiser stages share: noise, targets and prompts of a batch, each from its own draw."""

    def __init__(self, config: TrainConfig, pipe: FolderPipeline, device: torch.device) -> None:
        self.config, self.device = config, device
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(device)
        self.prediction_type = pipe.scheduler.config.prediction_type
        self.prompts = PromptMemory(pipe, encoded_prompts(config, pipe))

    def loss(
        self,
        denoiser: Denoiser,
        z0: torch.Tensor,
        tokens: torch.Tensor,
        draws: range,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Denoising loss of every row (b,), at a step and with noise drawn for that row."""
        eps = random_draws.noise(self.config.seed, draws, tuple(z0.shape[1:])).to(self.device)
        steps = self.steps(draws).to(self.device)
        schedule = (self.alphas_cumprod, self.prediction_type)
        return denoising_loss(denoiser, z0, eps, steps, tokens, *schedule, condition, mask, stride, time_ids)

    def steps(self, draws: range) -> torch.Tensor:
        """Diffusion step of every row, (b,) on the CPU."""
        return random_draws.timesteps(self.config.seed, draws, len(self.alphas_cumprod))

    def losses(self, per_window: torch.Tensor, draws: range) -> Losses:
        """`loss`, the mean of `per_window` (b,), weighted as configured, and `loss/noise_0` … `loss/noise_9`.

        Those are not weighted, so that trainings compare: one number for each window whose step lies in that tenth of
        the schedule, 0 next to clean.
        """
        steps, gamma = self.steps(draws), self.config.min_snr_gamma
        loss = per_window
        if gamma is not None:
            loss = per_window * min_snr_weights(self.alphas_cumprod, steps, gamma, self.prediction_type).to(self.device)
        tenths = steps * NOISE_BINS // len(self.alphas_cumprod)
        return {"loss": loss.mean()} | grouped("loss/noise", per_window.detach(), tenths.tolist())

    def tokens(self, samples: Sequence[WindowSample], draws: range) -> torch.Tensor:
        """Prompt tokens per frame: (b t n d); a dropped window has the empty prompt in every frame."""
        dropped = random_draws.happens(self.config.seed, "prompt", draws, self.config.prompt_dropout)
        prompts = [
            ("",) * len(sample.prompts) if drop else self._prompts(sample, draw)
            for sample, drop, draw in zip(samples, dropped, draws, strict=True)
        ]
        return torch.stack([self.prompts.tokens(of_window) for of_window in prompts]).to(self.device)

    def _prompts(self, sample: WindowSample, draw: int) -> tuple[str, ...]:
        """One per frame."""
        sampled = self.config.captions == "sampled"
        return sampled_prompts(sample, self.config.seed, draw) if sampled else sample.prompts
