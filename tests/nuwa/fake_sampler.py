"""Stands in for a sampler of windows where networks would only cost time: every number depends on all of the task."""

import zlib
from collections.abc import Sequence

import torch

from nuwa.generate.windows import Sampling, WindowResult, WindowTask

CHANNELS, SIDE = 2, 2


class FakeSampler:
    """Latents (2 l 2 2) from window, prompts, given latents and given pixels; pixels (3 l 4 4) from all the latents.

    Like a real autoencoder's, the pixels of a frame depend on the other frames of its window.
    """

    def __init__(self, batch: int = 4) -> None:
        self.sampling = Sampling(batch=batch)
        self.batches: list[list[WindowTask]] = []
        self.decoded_frames = 0

    def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[WindowResult]:
        self.batches.append(list(tasks))
        latents = [_latents(task) for task in tasks]
        videos = [self.decode(row[None])[0] if pixels else None for row in latents]
        return [WindowResult(row, video) for row, video in zip(latents, videos, strict=True)]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.decoded_frames += latents.shape[0] * latents.shape[2]
        mixed = latents + 0.2 * latents.roll(1, 2) + 0.1 * latents.flip(2)  # b c l h w
        video = torch.cat([mixed, mixed.mean(1, keepdim=True)], dim=1)
        return video.repeat_interleave(2, 3).repeat_interleave(2, 4).sin()


def _latents(task: WindowTask) -> torch.Tensor:
    window, length = task.window, len(task.prompts)
    seed = zlib.crc32(repr((window, task.prompts, sorted(task.given))).encode())
    latents = torch.randn(CHANNELS, length, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    for position, frame in sorted(task.given.items()):
        latents += (position + 1) * (frame.latent.mean() + 0.3 * frame.pixels.mean())
    for position, frame in task.given.items():
        latents[:, position] = frame.latent
    return latents
