"""image-vae: the image autoencoder learns from single frames, and the scale of its latents is measured."""

from collections.abc import Sequence

import torch

from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.train.autoencoder_loss import AutoencoderLoss, sample_posterior
from nuwa.train.config import TrainConfig
from nuwa.train.samples import PICTURES, Shown, reconstruction
from nuwa.train.stages import Adversary, Losses, frames_of, video_of


class ImageVaeStage:
    """image-vae: an AutoencoderKL on single frames; measures `scaling_factor`."""

    SCALING_FRAMES = 512

    def __init__(self, config: TrainConfig, pipe: NuwaXLPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.data = frames_of(runs, config)
        self.pattern: tuple[int, ...] = (0,)
        self.module = pipe.vae.image_vae().to(device).requires_grad_(True)
        self.loss = AutoencoderLoss(config, (runs[0].height, runs[0].width), device)

    @property
    def adversary(self) -> Adversary | None:
        """The discriminator of images, if there is one."""
        return self.loss.adversary

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """L1, KL and PSNR of reconstructed frames, LPIPS and adversarial terms as configured."""
        video = video_of(samples, self.device)  # b 3 1 h w
        posterior = self.module.encode(video[:, :, 0]).latent_dist
        decoded = self.module.decode(sample_posterior(posterior, self.config.seed, draws)).sample  # b 3 h w
        return self.loss(decoded[:, :, None], video, posterior, self.module.decoder.conv_out.weight)

    @torch.no_grad()
    def show(self) -> Shown:
        """A few frames above their reconstructions."""
        count = min(PICTURES, len(self.data))
        chosen = [self.data[place * len(self.data) // count] for place in range(count)]
        video = video_of(chosen, self.device)  # b 3 1 h w
        latents = self.module.encode(video[:, :, 0]).latent_dist.mode()
        return reconstruction(video, self.module.decode(latents).sample[:, :, None], None)

    def pipeline(self) -> NuwaXLPipeline:
        """The pipeline with these spatial weights in its autoencoder; temporal layers stay as they were."""
        self.pipe.vae.load_image_state(self.module.state_dict())
        self.pipe.vae.register_to_config(scaling_factor=self.scaling_factor())
        return self.pipe

    @torch.no_grad()
    def scaling_factor(self) -> float:
        """1 / standard deviation of the latents of evenly spaced frames: scaled latents have unit variance."""
        count = min(self.SCALING_FRAMES, len(self.data))
        chosen = [index * len(self.data) // count for index in range(count)]
        latents = []
        for first in range(0, count, 64):
            pixels = video_of([self.data[index] for index in chosen[first : first + 64]], self.device)[:, :, 0]
            latents.append(self.module.encode(pixels).latent_dist.mode().float())
        return 1.0 / float(torch.cat(latents).std().clamp_min(1e-6))
