"""Temporal self-attention that starts as the identity (NUWA-XL Eq. 2)."""

import torch
from einops import rearrange
from torch import nn

from nuwa.nn.attention import attend
from nuwa.nn.embedding import frame_positions


class TemporalAttention(nn.Module):
    """Every pixel attends to itself in all frames of its own video: x + W_out·attention(norm(x) + position).

    Eq. 2: the output projection is zero at first, inside a residual, so every frame stays as it is.
    Paper: normalisation not stated; here: over the channels of one pixel of one frame, so it never mixes frames.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, frames: torch.Tensor, num_frames: int, mixes_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Mix frames of the same video.

        frames: ((b t) c h w), `num_frames` = t; result of the same shape
        mixes_frames: (b,) bool; where False each frame is a video of its own: it attends to itself only, and its
            position is that of a first frame. None = True everywhere
        """
        _, channels, height, width = frames.shape
        tokens = self.norm(rearrange(frames, "f c h w -> f h w c"))  # a view in channels-last memory
        tokens = rearrange(tokens, "(b t) h w c -> (b h w) t c", t=num_frames)
        positions = frame_positions(num_frames, channels, tokens)
        mixes = None if mixes_frames is None else mixes_frames.repeat_interleave(height * width)[:, None, None]
        tokens = tokens + (positions if mixes is None else torch.where(mixes, positions, positions[:1]))
        # (b h w) t (3 heads d)
        query, key, value = rearrange(self.to_qkv(tokens), "r t (k n d) -> k r n t d", k=3, n=self.num_heads)
        attended = attend(query, key, value)
        if mixes is not None:
            attended = torch.where(mixes[..., None], attended, value)  # of itself alone: the weight is 1
        tokens = rearrange(attended, "r n t d -> r t (n d)")
        tokens = self.to_out(tokens)
        return frames + rearrange(tokens, "(b h w) t c -> (b t) c h w", h=height, w=width)


def num_heads_of(channels: int, head_channels: int = 64) -> int:
    """Heads of about `head_channels` channels each that divide `channels`; one head when they do not."""
    return channels // head_channels if channels % head_channels == 0 else 1
