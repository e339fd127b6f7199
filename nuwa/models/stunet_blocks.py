"""Blocks of the space-time U-Net: pretrained spatial layers, each followed by one inflation (Lumiere Sec. 3.1, Fig. 4).

At every level but the coarsest the inflation is a factorised convolution, at the coarsest one temporal attention. A
temporal resampling follows each spatial one, so that most of the work is done on few frames.
"""

from functools import partial

import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from torch import nn

from nuwa.models.inflated_blocks import Checkpointed, ImageDownBlock, ImageUpBlock, InflatedMidBlock
from nuwa.nn.resampling import InflatedConv, TemporalDownsample, TemporalUpsample
from nuwa.nn.resnet import TemporalResnetBlock, upsample
from nuwa.nn.temporal_attention import TemporalAttention, num_heads_of
from nuwa.nn.transformer import SpatialTransformer


class Layers(Checkpointed):
    """What down and up blocks share: layers of residual block, spatial attention, inflation."""

    def __init__(self, block: ImageDownBlock | ImageUpBlock, coarsest: bool, num_groups: int, kernel_size: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(TemporalResnetBlock(resnet, None, None) for resnet in block.resnets)
        self.has_attention = hasattr(block, "attentions")
        if self.has_attention:
            self.attentions = nn.ModuleList(SpatialTransformer(part) for part in block.attentions)
        widths = [resnet.out_channels for resnet in block.resnets]
        self.coarsest = coarsest
        if coarsest:
            self.attn_time = nn.ModuleList(TemporalAttention(width, num_heads_of(width)) for width in widths)
        else:
            self.conv_time = nn.ModuleList(InflatedConv(width, num_groups, kernel_size) for width in widths)

    def layer(
        self,
        index: int,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        skip: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pretrained layer and inflation: frames ((b t) c h w), embedding (b d), prompts ((b t) n d) or (b n d)."""
        if skip is not None:
            frames = torch.cat([frames, skip], dim=1)
        frames = self.resnets[index](frames, num_frames, embedding)
        if self.has_attention:
            frames = self.attentions[index](frames, prompts)
        inflation = self.attn_time[index] if self.coarsest else self.conv_time[index]
        inflated: torch.Tensor = inflation(frames, num_frames)
        return inflated


class DownBlock(Layers):
    """Layers, then spatial and, where `halves_time`, temporal downsampling; none of both in the last block."""

    def __init__(
        self, block: ImageDownBlock, coarsest: bool, halves_time: bool, num_groups: int, kernel_size: int
    ) -> None:
        super().__init__(block, coarsest, num_groups, kernel_size)
        self.downsamplers = block.downsamplers
        self.down_time = TemporalDownsample(block.resnets[-1].out_channels, kernel_size) if halves_time else None

    def forward(
        self, frames: torch.Tensor, num_frames: int, embedding: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Frames ((b t) c h w) → frames of the next level, and what skips to the up path."""
        skips = []
        for index in range(len(self.resnets)):
            frames = self.run(partial(self.layer, index), frames, num_frames, embedding, prompts)
            skips.append(frames)
        for downsampler in self.downsamplers or ():
            frames = downsampler(frames)
            if self.down_time is not None:
                frames = self.down_time(frames, num_frames)  # (b t) c h w -> (b ⌈t/2⌉) c h w
            skips.append(frames)
        return frames, skips


class UpBlock(Layers):
    """Layers that each take a skip, then spatial and, where `doubles_time`, temporal upsampling; none in the last."""

    def __init__(
        self, block: ImageUpBlock, coarsest: bool, doubles_time: bool, num_groups: int, kernel_size: int
    ) -> None:
        super().__init__(block, coarsest, num_groups, kernel_size)
        self.upsamplers = block.upsamplers
        self.up_time = TemporalUpsample(block.resnets[-1].out_channels, kernel_size) if doubles_time else None

    def forward(
        self,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        skips: list[torch.Tensor],
        finer_frames: int,
    ) -> torch.Tensor:
        """Frames ((b t) c h w) → ((b finer_frames) c h w) of the next finer level; the last skips are its own."""
        for index in range(len(self.resnets)):
            frames = self.run(partial(self.layer, index), frames, num_frames, embedding, prompts, skips.pop())
        for upsampler in self.upsamplers or ():
            frames = upsample(upsampler, frames, skips[-1].shape[-2:])
            if self.up_time is not None:
                frames = self.up_time(frames, finer_frames)
        return frames


class MidBlock(InflatedMidBlock):
    """The pretrained middle, at the coarsest level: temporal attention after each spatial one."""

    def __init__(self, block: UNetMidBlock2DCrossAttn) -> None:
        widths = [part.in_channels for part in block.attentions]
        super().__init__(
            nn.ModuleList(TemporalResnetBlock(resnet, None, None) for resnet in block.resnets),
            nn.ModuleList(SpatialTransformer(part) for part in block.attentions),
            nn.ModuleList(TemporalAttention(width, num_heads_of(width)) for width in widths),
        )
