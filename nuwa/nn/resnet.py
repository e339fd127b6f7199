"""Inflation: pretrained image modules with temporal ones beside them, the image weights under their old names."""

import torch
from diffusers.models.resnet import ResnetBlock2D, Upsample2D
from einops import rearrange
from torch import nn
from torch.nn import functional

from nuwa.hierarchy import NuwaError


class TemporalResnetBlock(nn.Module):
    """A pretrained `ResnetBlock2D` whose convolutions are each followed by the temporal one that is given.

    Keys of the image part are those of diffusers; new ones begin with `conv1_time` and `conv2_time`.
    """

    def __init__(self, resnet: ResnetBlock2D, conv1_time: nn.Module | None, conv2_time: nn.Module | None) -> None:
        super().__init__()
        if resnet.up or resnet.down or resnet.time_embedding_norm not in ("default", "group"):
            raise NuwaError(
                "a residual block that resizes or scales by the step cannot be inflated;"
                " give a network with resnet_time_scale_shift='default' and ordinary down and up blocks"
            )
        self.norm1, self.conv1 = resnet.norm1, resnet.conv1
        self.time_emb_proj, self.skip_time_act = resnet.time_emb_proj, resnet.skip_time_act
        self.norm2, self.dropout, self.conv2 = resnet.norm2, resnet.dropout, resnet.conv2
        self.nonlinearity, self.conv_shortcut = resnet.nonlinearity, resnet.conv_shortcut
        self.output_scale_factor = resnet.output_scale_factor
        self.conv1_time, self.conv2_time = conv1_time, conv2_time

    def forward(
        self,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor | None = None,
        mixes_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """NUWA-XL Eq. 7–9: convolution, + step, convolution, temporal convolution, inside the image block's residual.

        frames: ((b t) c h w); embedding: (b d) of the step, or None for an autoencoder; mixes_frames: (b,) bool or
        None, see `TemporalConv`
        """
        hidden = self.conv1(self.nonlinearity(self.norm1(frames)))
        if self.conv1_time is not None:
            hidden = self.conv1_time(hidden, num_frames, mixes_frames)
        if embedding is not None:
            hidden = hidden + self._step(embedding, num_frames)
        hidden = self.conv2(self.dropout(self.nonlinearity(self.norm2(hidden))))
        if self.conv2_time is not None:
            hidden = self.conv2_time(hidden, num_frames, mixes_frames)
        residual = frames if self.conv_shortcut is None else self.conv_shortcut(frames)
        hidden = residual + hidden
        return hidden if self.output_scale_factor == 1 else hidden / self.output_scale_factor

    def _step(self, embedding: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Shift ((b t) c 1 1) of all frames of a video by the same step embedding (b d)."""
        shift = self.time_emb_proj(embedding if self.skip_time_act else self.nonlinearity(embedding))
        return rearrange(shift.repeat_interleave(num_frames, dim=0), "f c -> f c 1 1")


def upsample(sampler: Upsample2D, frames: torch.Tensor, size: torch.Size | None = None) -> torch.Tensor:
    """Pretrained spatial upsampling of frames ((b t) c h w) to `size`, twice as large by default.

    diffusers' own forward turns batches of 64 frames and more to channels-first memory, which costs two copies here.
    """
    if size is None:
        size = torch.Size([2 * frames.shape[-2], 2 * frames.shape[-1]])
    return sampler.conv(functional.interpolate(frames, size=size, mode="nearest"))
