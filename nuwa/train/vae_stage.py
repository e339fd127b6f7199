"""vae: the temporal autoencoder learns from windows of L frames."""

import copy
from collections.abc import Sequence

import torch

from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import strides
from nuwa.models.vae import TemporalVAE
from nuwa.train.autoencoder_loss import AutoencoderLoss, sample_posterior
from nuwa.train.config import TrainConfig, VaeTrains
from nuwa.train.samples import Shown, reconstruction
from nuwa.train.stages import Adversary, Losses, pattern_of, rebuilt, video_of, windows_of

DISCRIMINATOR_FRAMES = 3
"""Frames that each convolution of the discriminator sees."""


class VaeStage:
    """vae: the T-KLVAE on windows at every stride (NUWA-XL Sec. 3.1); measures `scaling_factor` if latents change.

    Paper: which weights train is not stated; here: as `vae_trains` says. By default the spatial ones of the encoder
    proper stay, so that latents stay close to those the image U-Net knows.
    """

    SCALING_WINDOWS = 32

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.data = windows_of(runs, config, strides(config.window_length, config.depth))
        self.pattern = pattern_of(config, len(self.data.strides))
        self.module = pipe.vae.to(device)
        choose_weights(self.module, config.vae_trains)
        self.loss = AutoencoderLoss(config, (runs[0].height, runs[0].width), device, DISCRIMINATOR_FRAMES)

    @property
    def adversary(self) -> Adversary | None:
        """The discriminator of windows, if there is one."""
        return self.loss.adversary

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """L1, KL and PSNR of reconstructed windows, LPIPS and adversarial terms as configured."""
        video = video_of(samples, self.device)
        posterior = self.module.encode(video)
        decoded = self.module.decode(sample_posterior(posterior, self.config.seed, draws))
        # The last layer is temporal, and so it trains whatever else does.
        return self.loss(decoded, video, posterior, self.module.decoder.conv_out_time.weight)

    @torch.no_grad()
    def show(self) -> Shown:
        """A window of every stride beside its reconstruction."""
        firsts = [sum(self.data.counts[:level]) for level in range(len(self.data.counts))]
        middle = [first + count // 2 for first, count in zip(firsts, self.data.counts, strict=True)]
        video = video_of([self.data[index] for index in middle], self.device)
        return reconstruction(video, self.module.decode(self.module.encode(video).mode()), self.data.runs[0].train_fps)

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with this autoencoder."""
        vae = copy.copy(self.module)  # with a configuration of its own
        if self.config.vae_trains != "decoder":
            vae.register_to_config(scaling_factor=self.scaling_factor())
        return rebuilt(self.pipe, vae=vae, window_length=self.config.window_length)

    @torch.no_grad()
    def scaling_factor(self) -> float:
        """1 / standard deviation of the latents of windows: those that mtd learns from then have unit variance."""
        latents = []
        for index in self._spread():
            posterior = self.module.encode(video_of([self.data[index]], self.device))
            latents.append(posterior.mode().float())
        return 1.0 / float(torch.cat(latents).std().clamp_min(1e-6))

    def _spread(self) -> list[int]:
        """Windows evenly spaced at each stride, as many of one stride as of another: so does mtd take them."""
        each, chosen, first = max(1, self.SCALING_WINDOWS // len(self.data.counts)), [], 0
        for count in self.data.counts:
            number = min(each, count)
            chosen += [first + place * count // number for place in range(number)]
            first += count
        return chosen


def choose_weights(vae: TemporalVAE, trains: VaeTrains) -> None:
    """Let the weights that `trains` names ask for a gradient, and no others.

    The 1×1 convolutions between encoder and decoder: `quant_conv` belongs to the encoder, `post_quant_conv` to the
    decoder; with "temporal+decoder" both train.
    """
    vae.requires_grad_(trains in ("all", "temporal+decoder"))
    if trains == "temporal+decoder":
        vae.encoder.requires_grad_(False)
    if trains in ("temporal", "temporal+decoder"):
        for weight in vae.temporal_parameters():
            weight.requires_grad_(True)
    if trains == "decoder":
        vae.decoder.requires_grad_(True)
        if vae.post_quant_conv is not None:
            vae.post_quant_conv.requires_grad_(True)
