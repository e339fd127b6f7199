"""The pretrained spatial transformer on folded frames (NUWA-XL Eq. 12–15)."""

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from einops import rearrange
from torch import nn

from nuwa.nn.attention import FoldedAttentionProcessor


class SpatialTransformer(nn.Module):
    """A pretrained `Transformer2DModel`, same keys and same sums, that leaves frames in channels-last memory.

    Its blocks attend over the pixels of one frame (Eq. 12–13), then to the prompt of that frame (Eq. 14–15).
    """

    def __init__(self, transformer: Transformer2DModel) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = transformer.norm, transformer.proj_in, transformer.proj_out
        self.transformer_blocks = transformer.transformer_blocks
        self.use_linear_projection = transformer.use_linear_projection
        for block in self.transformer_blocks:
            block.attn1.set_processor(FoldedAttentionProcessor())
            block.attn2.set_processor(FoldedAttentionProcessor())

    def forward(self, frames: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """frames: ((b t) c h w), prompts: ((b t) n d) or (b n d) → ((b t) c h w)."""
        height = frames.shape[-2]
        hidden = self.norm(frames)
        if self.use_linear_projection:
            tokens = self.proj_in(rearrange(hidden, "f c h w -> f (h w) c"))
        else:
            tokens = rearrange(self.proj_in(hidden), "f c h w -> f (h w) c")
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=prompts)
        if self.use_linear_projection:
            return frames + rearrange(self.proj_out(tokens), "f (h w) c -> f c h w", h=height)
        return frames + self.proj_out(rearrange(tokens, "f (h w) c -> f c h w", h=height))
