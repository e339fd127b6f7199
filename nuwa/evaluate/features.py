"""What a feature network is to the distances: images or videos in, one vector each out; and the toy one for video."""

from itertools import pairwise
from typing import Protocol

import torch
from einops import rearrange
from torch import nn

from nuwa.hierarchy import NuwaError


class ImageFeatures(Protocol):
    """Features of single frames, for Avg-FID and its kin."""

    name: str
    """As it stands in every output; begins with "toy" when it is none of the field's networks."""
    toy: bool
    width: int

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """images: (n 3 h w) in [−1, 1] → (n d) float32."""
        ...


class VideoFeatures(Protocol):
    """Features of blocks of frames, for B-FVD-X and its kin."""

    name: str
    toy: bool
    width: int
    shortest: int
    """Frames of the shortest block it reads."""

    def __call__(self, videos: torch.Tensor) -> torch.Tensor:
        """videos: (n 3 t h w) in [−1, 1], t ≥ shortest → (n d) float32."""
        ...


class ToyVideoFeatures:
    """A 3-D convolutional network with fixed random weights, for when no I3D is at hand.

    Random convolutions tell appearance, motion and noise apart without having learned anything; the figures they give
    order like with like and mean nothing beside published ones. Two runs, on any machine, have the same weights.
    """

    toy = True
    shortest = 4
    CHANNELS = (3, 16, 32, 32)

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        if width < 1:
            raise NuwaError(f"toy video features of width {width}; give 1 or more")
        self.width, self.name = width, f"toy features: random 3-D convolutions (width {width}, seed {seed})"
        generator = torch.Generator().manual_seed(seed)
        self.weights = [
            torch.randn(out, inside, 3, 3, 3, generator=generator) * (2.0 / (27 * inside)) ** 0.5
            for inside, out in pairwise(self.CHANNELS)
        ]
        self.projection = torch.randn(2 * sum(self.CHANNELS[1:]), width, generator=generator) / 4.0

    @torch.inference_mode()
    def __call__(self, videos: torch.Tensor) -> torch.Tensor:
        """Mean and deviation over time and space of every layer's channels, projected: (n width)."""
        hidden, found = videos.float(), []
        for weight in self.weights:
            stride = (1 if hidden.shape[2] < 4 else 2, 2, 2)
            hidden = nn.functional.leaky_relu(nn.functional.conv3d(hidden, weight, stride=stride, padding=1), 0.1)
            flat = rearrange(hidden, "n c t h w -> n c (t h w)")
            found += [flat.mean(-1), flat.std(-1, correction=0)]
        return torch.cat(found, dim=1) @ self.projection
