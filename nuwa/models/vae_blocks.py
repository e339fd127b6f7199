"""Encoder and decoder of the temporal autoencoder: pretrained modules, each followed by its temporal one."""

from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import (
    AttnDownEncoderBlock2D,
    AttnUpDecoderBlock2D,
    DownEncoderBlock2D,
    UNetMidBlock2D,
    UpDecoderBlock2D,
)
from torch import nn

from nuwa.models.inflated_blocks import Checkpointed
from nuwa.nn.resnet import TemporalResnetBlock, upsample
from nuwa.nn.temporal_attention import TemporalAttention, num_heads_of
from nuwa.nn.temporal_conv import TemporalConv


def inflate_resnets(resnets: Iterable[ResnetBlock2D], kernel_size: int) -> nn.ModuleList:
    """Residual blocks with a temporal convolution after both of their spatial ones."""
    inflated = nn.ModuleList()
    for resnet in resnets:
        first, second = (TemporalConv(resnet.out_channels, kernel_size) for _ in range(2))
        inflated.append(TemporalResnetBlock(resnet, first, second))
    return inflated


def temporal_attentions(resnets: Iterable[ResnetBlock2D]) -> nn.ModuleList:
    """A temporal attention for the spatial one behind each of `resnets`."""
    return nn.ModuleList(
        TemporalAttention(resnet.out_channels, num_heads_of(resnet.out_channels)) for resnet in resnets
    )


ImageDownBlock: TypeAlias = DownEncoderBlock2D | AttnDownEncoderBlock2D
ImageUpBlock: TypeAlias = UpDecoderBlock2D | AttnUpDecoderBlock2D


class Layers(Checkpointed):
    """Residual blocks of one resolution, each with its attention over pixels and over frames if the image has it."""

    def __init__(self, block: ImageDownBlock | ImageUpBlock, kernel_size: int) -> None:
        super().__init__()
        self.resnets = inflate_resnets(block.resnets, kernel_size)
        self.has_attention = hasattr(block, "attentions")
        if self.has_attention:
            self.attentions, self.attn_time = block.attentions, temporal_attentions(block.resnets)

    def layers(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) c h w) at one resolution."""
        for index in range(len(self.resnets)):
            frames = self.run(partial(self.layer, index), frames, num_frames)
        return frames

    def layer(self, index: int, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) c h w) through one residual block and the attentions behind it."""
        frames = self.resnets[index](frames, num_frames)
        if self.has_attention:
            frames = self.attn_time[index](self.attentions[index](frames), num_frames)
        return frames


class DownBlock(Layers):
    """Layers, then a pretrained downsampling convolution followed by a temporal one, except in the last block."""

    def __init__(self, block: ImageDownBlock, kernel_size: int) -> None:
        super().__init__(block, kernel_size)
        self.downsamplers = block.downsamplers
        if self.downsamplers is not None:
            self.downsample_time = TemporalConv(self.downsamplers[0].out_channels, kernel_size)

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) c h w) → frames, half as large except in the last block."""
        frames = self.layers(frames, num_frames)
        if self.downsamplers is None:
            return frames
        return self.downsample_time(self.downsamplers[0](frames), num_frames)


class UpBlock(Layers):
    """Layers, then a pretrained upsampling convolution followed by a temporal one, except in the last block."""

    def __init__(self, block: ImageUpBlock, kernel_size: int) -> None:
        super().__init__(block, kernel_size)
        self.upsamplers = block.upsamplers
        if self.upsamplers is not None:
            self.upsample_time = TemporalConv(self.upsamplers[0].out_channels, kernel_size)

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) c h w) → frames, twice as large except in the last block."""
        frames = self.layers(frames, num_frames)
        if self.upsamplers is None:
            return frames
        return self.upsample_time(upsample(self.upsamplers[0], frames), num_frames)


class MidBlock(Checkpointed):
    """The pretrained middle: residual blocks with an attention over pixels, then over frames, between them."""

    def __init__(self, block: UNetMidBlock2D, kernel_size: int) -> None:
        super().__init__()
        self.resnets = inflate_resnets(block.resnets, kernel_size)
        self.attentions = block.attentions
        self.attn_time = temporal_attentions(block.resnets[1:] if block.add_attention else ())

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) c h w) → the same shape."""
        frames = self.run(self.resnets[0], frames, num_frames)
        for index in range(len(self.resnets) - 1):
            frames = self.run(partial(self.layer, index), frames, num_frames)
        return frames

    def layer(self, index: int, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) c h w) through the attentions over pixels and over frames, if any, and a residual block."""
        if len(self.attn_time):
            frames = self.attn_time[index](self.attentions[index](frames), num_frames)
        mixed: torch.Tensor = self.resnets[index + 1](frames, num_frames)
        return mixed


class TemporalEncoder(nn.Module):
    """`diffusers` Encoder on folded frames, with temporal modules."""

    def __init__(self, encoder: Encoder, kernel_size: int) -> None:
        super().__init__()
        self.conv_in, self.conv_out = encoder.conv_in, encoder.conv_out
        self.conv_in_time = TemporalConv(encoder.conv_in.out_channels, kernel_size)
        self.down_blocks = nn.ModuleList(DownBlock(block, kernel_size) for block in encoder.down_blocks)
        self.mid_block = MidBlock(encoder.mid_block, kernel_size)
        self.conv_norm_out, self.conv_act = encoder.conv_norm_out, encoder.conv_act
        self.conv_out_time = TemporalConv(encoder.conv_out.out_channels, kernel_size)

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Frames ((b t) 3 h w) → moments ((b t) 2c h/f w/f)."""
        frames = self.conv_in_time(self.conv_in(frames), num_frames)
        for block in self.down_blocks:
            frames = block(frames, num_frames)
        frames = self.mid_block(frames, num_frames)
        frames = self.conv_out(self.conv_act(self.conv_norm_out(frames)))
        return self.conv_out_time(frames, num_frames)


class TemporalDecoder(nn.Module):
    """`diffusers` Decoder on folded frames, with temporal modules."""

    def __init__(self, decoder: Decoder, kernel_size: int) -> None:
        super().__init__()
        self.conv_in, self.conv_out = decoder.conv_in, decoder.conv_out
        self.conv_in_time = TemporalConv(decoder.conv_in.out_channels, kernel_size)
        self.mid_block = MidBlock(decoder.mid_block, kernel_size)
        self.up_blocks = nn.ModuleList(UpBlock(block, kernel_size) for block in decoder.up_blocks)
        self.conv_norm_out, self.conv_act = decoder.conv_norm_out, decoder.conv_act
        self.conv_out_time = TemporalConv(decoder.conv_out.out_channels, kernel_size)

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Latents ((b t) c h/f w/f) → frames ((b t) 3 h w)."""
        frames = self.conv_in_time(self.conv_in(frames), num_frames)
        frames = self.mid_block(frames, num_frames)
        for block in self.up_blocks:
            frames = block(frames, num_frames)
        frames = self.conv_out(self.conv_act(self.conv_norm_out(frames)))
        return self.conv_out_time(frames, num_frames)
