"""Which of a clip's captions a draw trains on (Stable Video Diffusion, App. C; arXiv 2311.15127)."""

from collections.abc import Sequence

import torch

from nuwa.data.runs import Captions
from nuwa.data.windows import WindowSample
from nuwa.train.draws import generator

SHARES = (0.5, 0.25, 0.25)
"""Of caption_coca, caption_video, caption_llm."""


def sampled_prompts(sample: WindowSample, seed: int, draw: int) -> tuple[str, ...]:
    """One caption per clip of a window, so that all frames of a clip share theirs; one prompt per frame.

    Depends on (seed, draw) and the window only: every draw of a window chooses anew.
    """
    chosen: dict[str, str] = {}
    random = generator(seed, "caption", draw)
    for clip, captions, stored in zip(sample.clip_ids, sample.captions, sample.prompts, strict=True):
        if clip not in chosen:
            chosen[clip] = choose(captions, float(torch.rand((), generator=random, dtype=torch.float64)), stored)
    return tuple(chosen[clip] for clip in sample.clip_ids)


def choose(captions: Captions, place: float, otherwise: str, shares: Sequence[float] = SHARES) -> str:
    """The caption at `place` of [0, 1), each as wide as its share; missing ones leave theirs to the others.

    otherwise: where there is none at all
    """
    there = [(text, share) for text, share in zip(captions, shares, strict=True) if text]
    left = place * sum(share for _, share in there)
    for text, share in there:
        left -= share
        if left < 0:
            return text
    return there[-1][0] if there else otherwise
