"""What of a training clip is given, so that one network learns every task of conditional generation (Lumiere Sec. 4.2).

Paper: clips are trained with masks of their tasks, which in which share is not stated; here: a share of the clips for
each task, and text to video, nothing given, for the rest. Given pixels are those of the clip itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import repeat

from nuwa.generate.masks import Known
from nuwa.train.config import TrainConfig
from nuwa.train.draws import generator
from nuwa.train.given_frames import Given, first_frames, random_count, scattered_frames

SMALLEST_FRAC, LARGEST_FRAC = 0.25, 0.75
"""Sides of a region as a part of those of the frame. Paper: not stated."""


@dataclass(frozen=True, kw_only=True)
class TaskShares:
    """Probabilities of the tasks; what is left of 1 is text to video.

    first_frame: image to video. prediction: the first k frames, k uniform in 1 … t−1. infilling: any k frames.
    inpainting: all but a region. outpainting: a region only. cinemagraph: the first frame, of the others all but a
    region. A region is a rectangle, of half the clips in motion.
    """

    first_frame: float = 0.0
    prediction: float = 0.0
    infilling: float = 0.0
    inpainting: float = 0.0
    outpainting: float = 0.0
    cinemagraph: float = 0.0


@dataclass(frozen=True)
class _Clip:
    """One clip to mask: its size in frames and pixels, and where its random numbers come from."""

    num_frames: int
    height: int
    width: int
    seed: int
    draw: int

    def frames(self, given: Given) -> torch.Tensor:
        """Mask (1 t H W) of whole frames."""
        return repeat(torch.tensor(given).float(), "t -> 1 t h w", h=self.height, w=self.width).clone()

    def count(self) -> int:
        """A number of frames, at least one and not all."""
        return random_count(self.num_frames, self.seed, self.draw)

    def uniform(self, purpose: str, count: int = 1) -> list[float]:
        """Numbers in [0, 1) of this clip's own."""
        return torch.rand(count, generator=generator(self.seed, purpose, self.draw)).tolist()


def task_shares(config: TrainConfig) -> TaskShares:
    """The shares a training asks for."""
    return TaskShares(
        first_frame=config.first_frame_frac,
        prediction=config.prediction_frac,
        infilling=config.infilling_frac,
        inpainting=config.inpainting_frac,
        outpainting=config.outpainting_frac,
        cinemagraph=config.cinemagraph_frac,
    )


def known_mask(shares: TaskShares, num_frames: int, height: int, width: int, seed: int, draw: int) -> torch.Tensor:
    """Mask (1 t H W), 1 = given, of one clip; depends on nothing but the arguments."""
    clip = _Clip(num_frames, height, width, seed, draw)
    tasks: tuple[tuple[float, Callable[[_Clip], torch.Tensor]], ...] = (
        (shares.first_frame, lambda clip: clip.frames(first_frames(1, clip.num_frames))),
        (shares.prediction, lambda clip: clip.frames(first_frames(clip.count(), clip.num_frames))),
        (shares.infilling, lambda clip: clip.frames(scattered_frames(clip.num_frames, clip.seed, clip.draw))),
        (shares.inpainting, lambda clip: 1.0 - _region(clip)),
        (shares.outpainting, _region),
        (shares.cinemagraph, _cinemagraph),
    )
    (place,), until = clip.uniform("task"), 0.0
    for share, mask in tasks:
        until += share
        if place < until:
            return mask(clip)
    return torch.zeros(1, num_frames, height, width)


def masked(video: torch.Tensor, mask: torch.Tensor) -> Known:
    """The known part of a video (3 t H W) under a mask (1 t H W): unknown pixels are zero."""
    return Known(torch.where(mask > 0, video, torch.zeros_like(video)), mask.to(video))


def _cinemagraph(clip: _Clip) -> torch.Tensor:
    mask = 1.0 - _region(clip)
    mask[:, 0] = 1.0
    return mask


def _region(clip: _Clip) -> torch.Tensor:
    """A rectangle of ones (1 t H W); it stays or goes at constant speed from one place to another."""
    tall, wide, moves, *ends = clip.uniform("region", 7)
    height, width = _side(tall, clip.height), _side(wide, clip.width)
    top, left, last_top, last_left = (
        round(place * room) for place, room in zip(ends, 2 * (clip.height - height, clip.width - width), strict=True)
    )
    mask = torch.zeros(1, clip.num_frames, clip.height, clip.width)
    for frame in range(clip.num_frames):
        gone = frame / max(1, clip.num_frames - 1) if moves < 0.5 else 0.0
        row, column = round(top + gone * (last_top - top)), round(left + gone * (last_left - left))
        mask[:, frame, row : row + height, column : column + width] = 1.0
    return mask


def _side(place: float, whole: int) -> int:
    """Side of a region in px, for a uniform number."""
    return max(1, min(whole - 1, round(whole * (SMALLEST_FRAC + place * (LARGEST_FRAC - SMALLEST_FRAC)))))
