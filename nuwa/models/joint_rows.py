"""Rows of images in a batch of clips, for a network that resamples time: their frames go through it one by one."""

from collections.abc import Callable

import torch
from einops import rearrange

Denoise = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor], torch.Tensor]


def denoise_apart(
    denoise: Denoise,
    mixes_frames: torch.Tensor,
    hidden: torch.Tensor,
    num_frames: int,
    embedding: torch.Tensor,
    prompts: torch.Tensor,
) -> torch.Tensor:
    """`denoise(hidden, num_frames, embedding, prompts)` with images as clips of one frame: (b c t h w).

    Masked temporal layers would not do: resampling drops every other frame and repeats the ones between.
    Ho et al. 2022 (arXiv 2204.03458), Sec. 3, mask temporal attention; their network resamples no time.

    mixes_frames: (b,) bool, False for images; hidden: ((b t) c h w), `num_frames` = t; embedding: (b d)
    prompts: (b t n d) or (b n d)
    """
    videos, images = mixes_frames.nonzero()[:, 0], (~mixes_frames).nonzero()[:, 0]
    clips = rearrange(hidden, "(b t) c h w -> b t c h w", t=num_frames)
    found = []
    if len(videos):
        rows = rearrange(clips[videos], "b t c h w -> (b t) c h w")
        found.append(denoise(rows, num_frames, embedding[videos], prompts[videos]))
    if len(images):
        rows = rearrange(clips[images], "b t c h w -> (b t) c h w")
        steps = embedding[images].repeat_interleave(num_frames, dim=0)
        own = prompts[images].flatten(0, 1)[:, None] if prompts.ndim == 4 else _shared(prompts[images], num_frames)
        denoised = denoise(rows, 1, steps, own)
        found.append(rearrange(denoised, "(b t) c 1 h w -> b c t h w", t=num_frames))
    return torch.cat(found)[torch.cat([videos, images]).argsort()]


def _shared(prompts: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Prompts of clips (b n d) for each of their frames, ((b t) n d)."""
    return prompts.repeat_interleave(num_frames, dim=0)
