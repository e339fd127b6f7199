"""vae: the temporal autoencoder learns from windows of L frames."""

import copy
from collections.abc import Sequence

import torch

from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import strides
from nuwa.train.config import TrainConfig
from nuwa.train.stages import Losses, autoencoder_losses, rebuilt, sample_posterior, video_of, windows_of


class VaeStage:
    """vae: temporal layers and decoder of the T-KLVAE on windows at every stride (NUWA-XL Sec. 3.1).

    Paper: which weights train is not stated; here: the spatial ones of the encoder proper stay, so that latents stay
    close to those the image U-Net knows; its temporal ones and the 1×1 `quant_conv` behind it train.
    """

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.data = windows_of(runs, config, strides(config.length, config.depth))
        self.pattern = tuple(range(len(self.data.strides)))
        self.module = pipe.vae.to(device).requires_grad_(True)
        self.module.encoder.requires_grad_(False)
        for weight in self.module.temporal_parameters():
            weight.requires_grad_(True)

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """L1, KL and PSNR of reconstructed windows."""
        video = video_of(samples, self.device)
        posterior = self.module.encode(video)
        decoded = self.module.decode(sample_posterior(posterior, self.config.seed, draws))
        return autoencoder_losses(decoded, video, posterior, self.config.kl_weight)

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with this autoencoder."""
        return rebuilt(self.pipe, self.config, vae=copy.deepcopy(self.module))
