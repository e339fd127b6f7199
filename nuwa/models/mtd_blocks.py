"""Blocks of the Mask Temporal Diffusion network: pretrained spatial modules, modulation, temporal modules.

Order within each layer of an up block (NUWA-XL Eq. 7–16): concatenate the skip, convolution + step (7), spatial
convolution (8), temporal convolution (9), condition (10), mask (11), attention over pixels (12–13), attention to the
frame's prompt (14–15), attention over frames, then, after the last layer, upsampling. A down block is the same without
skips. Paper: one layer per block; here: the order repeats for every layer the image block has.
"""

from collections.abc import Iterable
from functools import partial

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from torch import nn

from nuwa.models.inflated_blocks import Checkpointed, ImageDownBlock, ImageUpBlock, InflatedMidBlock
from nuwa.nn.modulation import Control, ControlModulation
from nuwa.nn.resnet import TemporalResnetBlock, upsample
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv
from nuwa.nn.transformer import SpatialTransformer


def inflate_resnets(resnets: Iterable[ResnetBlock2D], kernel_size: int) -> nn.ModuleList:
    """Residual blocks with one temporal convolution, after the second spatial one (Eq. 9)."""
    return nn.ModuleList(
        TemporalResnetBlock(resnet, None, TemporalConv(resnet.out_channels, kernel_size)) for resnet in resnets
    )


def attentions_of(
    block: ImageDownBlock | ImageUpBlock | UNetMidBlock2DCrossAttn,
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The spatial transformers of an image block and a temporal attention for each; both empty if it has none."""
    spatial = list(getattr(block, "attentions", []))
    temporal = [TemporalAttention(part.in_channels, part.config.num_attention_heads) for part in spatial]
    return nn.ModuleList(SpatialTransformer(part) for part in spatial), nn.ModuleList(temporal)


def modulations_of(block: ImageDownBlock | ImageUpBlock, widths: tuple[int, int]) -> nn.ModuleList:
    """One modulation by condition and mask per layer of an image block; `widths` are those of their features."""
    return nn.ModuleList(ControlModulation(*widths, resnet.out_channels) for resnet in block.resnets)


class Layers(Checkpointed):
    """What down and up blocks share: layers of residual block, modulation, spatial and temporal attention.

    `widths` are those of the features of condition and mask; a block that is not told of them takes None.
    """

    def __init__(self, block: ImageDownBlock | ImageUpBlock, widths: tuple[int, int] | None, kernel_size: int) -> None:
        super().__init__()
        self.resnets = inflate_resnets(block.resnets, kernel_size)
        self.has_modulation = widths is not None
        if widths is not None:
            self.modulations = modulations_of(block, widths)
        spatial, temporal = attentions_of(block)
        if len(spatial):
            self.attentions, self.attn_time = spatial, temporal
        self.has_attention = len(spatial) > 0

    def layer(
        self,
        index: int,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        control: Control | None,
        mixes_frames: torch.Tensor | None,
        skip: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Eq. 7–16 once: frames ((b t) c h w), embedding (b d), prompts ((b t) n d) or (b n d), mixes_frames (b,)."""
        if skip is not None:
            frames = torch.cat([frames, skip], dim=1)
        frames = self.resnets[index](frames, num_frames, embedding, mixes_frames)
        if self.has_modulation:
            frames = self.modulations[index](frames, control)
        if self.has_attention:
            frames = self.attentions[index](frames, prompts)
            frames = self.attn_time[index](frames, num_frames, mixes_frames)
        return frames


class DownBlock(Layers):
    """Layers, then spatial downsampling except in the last block."""

    def __init__(self, block: ImageDownBlock, widths: tuple[int, int] | None, kernel_size: int) -> None:
        super().__init__(block, widths, kernel_size)
        self.downsamplers = block.downsamplers

    def forward(
        self,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        control: Control | None,
        mixes_frames: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Frames ((b t) c h w) → frames, half as large except in the last block, and what skips to the up path."""
        skips = []
        for index in range(len(self.resnets)):
            layer = partial(self.layer, index)
            frames = self.run(layer, frames, num_frames, embedding, prompts, control, mixes_frames)
            skips.append(frames)
        for downsampler in self.downsamplers or ():
            frames = downsampler(frames)
            skips.append(frames)
        return frames, skips


class UpBlock(Layers):
    """Layers that each take a skip, then spatial upsampling except in the last block."""

    def __init__(self, block: ImageUpBlock, widths: tuple[int, int] | None, kernel_size: int) -> None:
        super().__init__(block, widths, kernel_size)
        self.upsamplers = block.upsamplers

    def forward(
        self,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        control: Control | None,
        skips: list[torch.Tensor],
        mixes_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Frames ((b t) c h w) → frames, twice as large except in the last block; the last skips are its own."""
        for index in range(len(self.resnets)):
            layer, skip = partial(self.layer, index), skips.pop()
            frames = self.run(layer, frames, num_frames, embedding, prompts, control, mixes_frames, skip)
        for upsampler in self.upsamplers or ():
            frames = upsample(upsampler, frames, skips[-1].shape[-2:])
        return frames


class MidBlock(InflatedMidBlock):
    """The pretrained middle with temporal layers. Paper: condition and mask enter down and up blocks only."""

    def __init__(self, block: UNetMidBlock2DCrossAttn, kernel_size: int) -> None:
        super().__init__(inflate_resnets(block.resnets, kernel_size), *attentions_of(block))
