"""Temporal down- and upsampling and inflated convolution: at first a static video stays as it is (Lumiere App. B)."""

import math

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from nuwa.nn.temporal_conv import TemporalConv, over_frames


def frames_at(num_frames: int, factor: int) -> int:
    """Frames of a level with one per `factor` frames of the clip: 80, 40, 20, 10 for factors 1, 2, 4, 8.

    Rounded up: the last frame of a level may stand for fewer than `factor` frames, so a clip of any length can be
    trained on, and no frame is made up. Generation does pad a clip to a multiple of the factor, in pixels before the
    network sees it, so that every frame shown comes from whole coarse ones.
    """
    return math.ceil(num_frames / factor)


class TemporalDownsample(TemporalConv):
    """Every other frame of a temporal convolution; at first frame k of the result is frame 2k of the input.

    Lumiere App. B: an identity-initialised convolution, then a stride of two frames.
    """

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:  # type: ignore[override]
        """Frames ((b t) c h w) → ((b ⌈t/2⌉) c h w); `num_frames` = t."""
        height = frames.shape[-2]
        lines = rearrange(frames, "(b t) c h w -> b c t (h w)", t=num_frames)
        weight = over_frames(self.weight)
        # The frames that the stride leaves out are not computed in the first place.
        lines = functional.conv2d(lines, weight, self.bias, stride=(2, 1), padding=(self.kernel_size[0] // 2, 0))
        return rearrange(lines, "b c t (h w) -> (b t) c h w", h=height)


class TemporalUpsample(nn.Module):
    """Each frame twice, then a temporal convolution; at first frames 2k and 2k + 1 of the result are frame k.

    Lumiere App. B: frame duplication, then an identity-initialised convolution.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = TemporalConv(channels, kernel_size)

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b ⌈t/2⌉) c h w) → ((b t) c h w); `num_frames` = t, of the result."""
        videos = rearrange(frames, "(b t) c h w -> b t h w c", t=frames_at(num_frames, 2))
        videos = videos.repeat_interleave(2, dim=1)[:, :num_frames]
        return self.conv(rearrange(videos, "b t h w c -> (b t) c h w"), num_frames)


class InflatedConv(nn.Module):
    """What convolution inflation adds behind a pretrained layer: x + W_out·conv1d(conv2d(x)), at first x.

    Lumiere Sec. 3.1, Fig. 4: a convolution over space, one over time, a zero-initialised linear projection, a residual.
    Paper: what lies between the two is not stated; here: group norm of each frame, so that it never mixes frames, and
    SiLU. Without them all three would be one linear map.
    """

    def __init__(self, channels: int, num_groups: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv_space = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(channels, num_groups), channels)
        self.conv_time = TemporalConv(channels, kernel_size)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)
        nn.init.zeros_(self.proj_out.weight)
        if self.proj_out.bias is not None:
            nn.init.zeros_(self.proj_out.bias)

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Mix frames of the same video; frames: ((b t) c h w), `num_frames` = t, result of the same shape."""
        hidden = functional.silu(self.norm(self.conv_space(frames)))
        return frames + self.proj_out(self.conv_time(hidden, num_frames))
