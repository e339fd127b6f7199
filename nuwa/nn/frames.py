"""Frames of a batch of videos laid side by side, (b t) c h w, so that image modules see images.

Folded frames are kept in channels-last memory. There, the view of a temporal convolution, b c t (h w), and the view
of a transformer, (b t) (h w) c, are both free of copies.
"""

import torch
from einops import rearrange


def fold(video: torch.Tensor) -> torch.Tensor:
    """Video (b c t h w) → frames ((b t) c h w) in channels-last memory."""
    pixels = rearrange(video, "b c t h w -> (b t) h w c").contiguous()
    return rearrange(pixels, "f h w c -> f c h w")


def unfold(frames: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Frames ((b t) c h w) → video (b c t h w), contiguous."""
    return rearrange(frames, "(b t) c h w -> b c t h w", t=num_frames).contiguous()
