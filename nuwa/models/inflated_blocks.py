"""What the blocks of all inflated U-Nets share: checkpointing, and the middle, which has the same order in each.

With `gradient_checkpointing`, as diffusers' models set it, a block keeps the inputs of its layers only and computes
the rest again in the backward pass.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D, DownBlock2D, UpBlock2D
from torch import nn

ImageDownBlock: TypeAlias = CrossAttnDownBlock2D | DownBlock2D
ImageUpBlock: TypeAlias = CrossAttnUpBlock2D | UpBlock2D


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


class InflatedMidBlock(Checkpointed):
    """The pretrained middle: a residual block, then as often as it has attentions a spatial one, a temporal one and a
    residual block.
    """

    def __init__(self, resnets: nn.ModuleList, attentions: nn.ModuleList, attn_time: nn.ModuleList) -> None:
        super().__init__()
        self.resnets, self.attentions, self.attn_time = resnets, attentions, attn_time

    def forward(
        self,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        mixes_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Frames ((b t) c h w) → the same shape; embedding (b d), prompts ((b t) n d) or (b n d), mixes_frames (b,)."""
        frames = self.run(self.resnets[0], frames, num_frames, embedding, mixes_frames)
        for index in range(len(self.attentions)):
            frames = self.run(partial(self.layer, index), frames, num_frames, embedding, prompts, mixes_frames)
        return frames

    def layer(
        self,
        index: int,
        frames: torch.Tensor,
        num_frames: int,
        embedding: torch.Tensor,
        prompts: torch.Tensor,
        mixes_frames: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention over pixels, to the prompt, over frames, then a residual block."""
        frames = self.attn_time[index](self.attentions[index](frames, prompts), num_frames, mixes_frames)
        mixed: torch.Tensor = self.resnets[index + 1](frames, num_frames, embedding, mixes_frames)
        return mixed
