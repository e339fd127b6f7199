"""Latents of training clips: encoded once where they come again, pixels themselves where there is no autoencoder."""

from collections.abc import Callable, Sequence

import torch

from nuwa.data.windows import WindowSample
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.train import draws as random_draws
from nuwa.train.config import TrainConfig
from nuwa.train.memory import LatentMemory


class ClipLatents:
    """The frozen autoencoder of a pipeline, if it has one, and what it has encoded."""

    def __init__(self, pipe: StunetPipeline, config: TrainConfig, device: torch.device) -> None:
        self.device, self.vae = device, pipe.vae
        if self.vae is not None:
            self.vae.to(device).eval().requires_grad_(False)
        self.memory = LatentMemory(config.latent_cache_mb * 2**20)

    @property
    def factor(self) -> int:
        """Pixels of a side per latent."""
        return 1 if self.vae is None else self.vae.downsample_factor

    def recall(self, key: tuple[int, ...], video: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Latents (c t h w) of what `video` gives, (1 3 t H W), kept under `key` while there is room."""
        return self.memory.recall(key, lambda: self.encode(video())[0])

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Scaled latents (b c t h w) of a video (b 3 t H W), the same in every precision of the training."""
        video = video.to(self.device)
        if self.vae is None:
            return video
        with torch.autocast(self.device.type, enabled=False):
            return self.vae.encode(video).mode().float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Video (b 3 t H W), about [−1, 1], of scaled latents (b c t h w)."""
        if self.vae is None:
            return latents
        with torch.autocast(self.device.type, enabled=False):
            return self.vae.decode(latents.float() / self.vae.config.scaling_factor)


def clip_numbers(
    config: TrainConfig, samples: Sequence[WindowSample], noise_levels: Sequence[float], draws: range
) -> torch.Tensor:
    """(b, 3): fps, motion score, noise on the condition; NaN = not known, or hidden by `condition_dropout`.

    The amount of noise is never hidden: whoever makes a clip knows it.
    """
    rate, seed = config.condition_dropout, config.seed
    fps, motion = (random_draws.happens(seed, purpose, draws, rate) for purpose in ("fps", "motion"))
    numbers = torch.tensor([[s.fps, s.motion_score, n] for s, n in zip(samples, noise_levels, strict=True)])
    hidden = torch.tensor([fps, motion, [False] * len(samples)]).T
    return numbers.masked_fill(hidden, float("nan"))
