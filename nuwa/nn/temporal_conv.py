"""Temporal convolution that starts as the identity (NUWA-XL Eq. 1)."""

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from nuwa.hierarchy import NuwaError


class TemporalConv(nn.Conv1d):
    """1-D convolution over the frames of a video, at every pixel alike; zeros beyond the first and last frame.

    Eq. 1: the weight is 0 except W[i, i, (k−1)//2] = 1 and the bias is 0, so at first every frame stays as it is.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        if kernel_size % 2 == 0:
            raise NuwaError(f"a temporal kernel of {kernel_size} frames has no centre; give an odd number")
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2)

    def reset_parameters(self) -> None:
        """Identity (Eq. 1)."""
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.weight[:, :, (self.kernel_size[0] - 1) // 2].fill_diagonal_(1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(  # type: ignore[override]
        self, frames: torch.Tensor, num_frames: int, mixes_frames: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mix frames of the same video.

        frames: ((b t) c h w), `num_frames` = t; result of the same shape
        mixes_frames: (b,) bool; where False each frame is a video of its own, so only the centre of the kernel meets
            it. None = True everywhere
        """
        height, centre = frames.shape[-2], self.kernel_size[0] // 2
        lines = rearrange(frames, "(b t) c h w -> b c t (h w)", t=num_frames)
        # A 2-D convolution with a kernel one pixel wide: the same sum as conv1d, without moving (h w) into the batch.
        weight = over_frames(self.weight)
        mixed = functional.conv2d(lines, weight, self.bias, padding=(centre, 0))
        if mixes_frames is not None:
            alone = functional.conv2d(lines, weight[:, :, centre : centre + 1], self.bias)
            mixed = torch.where(mixes_frames[:, None, None, None], mixed, alone)
        return rearrange(mixed, "b c t (h w) -> (b t) c h w", h=height)


def over_frames(weight: torch.Tensor) -> torch.Tensor:
    """A kernel over frames (o i k) as one of a 2-D convolution, (o i k 1), in channels-last memory.

    By the weight, torch then keeps the result in that memory too, for a single video as well, whose frames alone do not
    tell it; in the other one, everything behind the convolution, and its gradient, moves at a fraction of the speed.
    """
    return rearrange(weight, "o i k -> o i k 1").contiguous(memory_format=torch.channels_last)
