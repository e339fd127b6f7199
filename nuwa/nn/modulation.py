"""Mask and condition, carried to every resolution and injected by modulation (NUWA-XL Sec. 3.2, Eq. 10 and 11)."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Control(NamedTuple):
    """Features of the visual condition and of the mask at one resolution, each ((b t) c h w)."""

    condition: torch.Tensor
    mask: torch.Tensor


class Modulation(nn.Module):
    """h ← w·h + b + h, with w and b from a zero-initialised convolution of the features."""

    def __init__(self, feature_channels: int, channels: int) -> None:
        super().__init__()
        # Paper: kernel size not stated; here 1: the cascade has already looked around each pixel.
        self.conv = nn.Conv2d(feature_channels, 2 * channels, kernel_size=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, frames: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """frames: ((b t) c h w), features: ((b t) d h w) → ((b t) c h w)."""
        weight, bias = self.conv(features).chunk(2, dim=1)
        return torch.addcmul(frames + bias, weight, frames)


class ControlModulation(nn.Module):
    """Eq. 10 by the condition, then Eq. 11 by the mask."""

    def __init__(self, condition_channels: int, mask_channels: int, channels: int) -> None:
        super().__init__()
        self.condition = Modulation(condition_channels, channels)
        self.mask = Modulation(mask_channels, channels)

    def forward(self, frames: torch.Tensor, control: Control) -> torch.Tensor:
        """frames: ((b t) c h w) → ((b t) c h w)."""
        return self.mask(self.condition(frames, control.condition), control.mask)


class Cascade(nn.Module):
    """Convolutions that take a map to every resolution of a U-Net: the first keeps it, each further one halves it."""

    def __init__(self, in_channels: int, channels: int, num_levels: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)]
        convs += [nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(num_levels - 1)]
        self.convs = nn.ModuleList(convs)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Frames ((b t) c h w) → features ((b t) d h/2^l w/2^l), one per resolution, finest first."""
        features = []
        for conv in self.convs:
            frames = functional.silu(conv(frames))
            features.append(frames)
        return features
