"""Blocks of the Mask Temporal Diffusion network: pretrained spatial modules, modulation, temporal modules.

Order within each layer of an up block (NUWA-XL Eq. 7–16): concatenate the skip, convolution + step (7), spatial
convolution (8), temporal convolution (9), condition (10), mask (11), attention over pixels (12–13), attention to the
frame's prompt (14–15), attention over frames, then, after the last layer, upsampling. A down block is the same without
skips. Paper: one layer per block; here: the order repeats for every layer the image block has.

With `gradient_checkpointing`, as diffusers' models set it, a block keeps the inputs of its layers only and computes
the rest again in the backward pass.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from torch import nn

from nuwa.nn.modulation import Control, ControlModulation
from nuwa.nn.resnet import TemporalResnetBlock, upsample
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv
from nuwa.nn.transformer import SpatialTransformer

ImageDownBlock: TypeAlias = CrossAttnDownBlock2D | DownBlock2D
ImageUpBlock: TypeAlias = CrossAttnUpBlock2D | UpBlock2D


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


class Checkpointed(nn.Module):
    """What `enable_gradient_checkpointing` of a diffusers model looks for, and the way to run a part under it."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., torch.Tensor] | None = None

    def run(self, part: Callable[..., torch.Tensor], *inputs: object) -> torch.Tensor:
        """`part(*inputs)`; under checkpointing, what it computes on the way is not kept for the backward pass."""
        if self.gradient_checkpointing and self._gradient_checkpointing_func and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(part, *inputs)
        return part(*inputs)


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
        skip: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Eq. 7–16 once: frames ((b t) c h w), embedding (b d), prompts ((b t) n d) or (b n d)."""
        if skip is not None:
            frames = torch.cat([frames, skip], dim=1)
        frames = self.resnets[index](frames, num_frames, embedding)
        if self.has_modulation:
            frames = self.modulations[index](frames, control)
        if self.has_attention:
            frames = self.attentions[index](frames, prompts)
            frames = self.attn_time[index](frames, num_frames)
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
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Frames ((b t) c h w) → frames, half as large except in the last block, and what skips to the up path."""
        skips = []
        for index in range(len(self.resnets)):
            frames = self.run(partial(self.layer, index), frames, num_frames, embedding, prompts, control)
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
    ) -> torch.Tensor:
        """Frames ((b t) c h w) → frames, twice as large except in the last block; takes its skips off the list."""
        for index in range(len(self.resnets)):
            layer, skip = partial(self.layer, index), skips.pop()
            frames = self.run(layer, frames, num_frames, embedding, prompts, control, skip)
        for upsampler in self.upsamplers or ():
            frames = upsample(upsampler, frames, skips[-1].shape[-2:])
        return frames


class MidBlock(Checkpointed):
    """The pretrained middle with temporal layers. Paper: condition and mask enter down and up blocks only."""

    def __init__(self, block: UNetMidBlock2DCrossAttn, kernel_size: int) -> None:
        super().__init__()
        self.resnets = inflate_resnets(block.resnets, kernel_size)
        self.attentions, self.attn_time = attentions_of(block)

    def forward(
        self, frames: torch.Tensor, num_frames: int, embedding: torch.Tensor, prompts: torch.Tensor
    ) -> torch.Tensor:
        """Frames ((b t) c h w) → the same shape."""
        frames = self.run(self.resnets[0], frames, num_frames, embedding)
        for index in range(len(self.attentions)):
            frames = self.run(partial(self.layer, index), frames, num_frames, embedding, prompts)
        return frames

    def layer(
        self, index: int, frames: torch.Tensor, num_frames: int, embedding: torch.Tensor, prompts: torch.Tensor
    ) -> torch.Tensor:
        """Attention over pixels, to the prompt, over frames, then a residual block."""
        frames = self.attn_time[index](self.attentions[index](frames, prompts), num_frames)
        resnet = self.resnets[index + 1]
        mixed: torch.Tensor = resnet(frames, num_frames, embedding)
        return mixed
