"""Which frames of a training window are given, so that one network learns to make, fill, continue and complete.

Paper: nothing is given at the global level, the first and the last frame at the local ones (NUWA-XL Sec. 3.2); here:
shares of the windows of every level learn other masks too, because a story may start from a picture, go on from a
video or pass through given pictures.
"""

from dataclasses import dataclass

import torch

from nuwa.train import draws
from nuwa.train.config import TrainConfig

Given = tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Probabilities of the kinds of mask; what is left of 1 is the mask of the level itself.

    nothing: no frame. first_frame: the first one. prediction: the first k, k uniform in 1 … L−1.
    infilling: any k of them, k uniform in 1 … L−1.
    """

    nothing: float
    first_frame: float
    prediction: float
    infilling: float


def shares_of(config: TrainConfig) -> Shares:
    """The shares a training asks for."""
    return Shares(
        nothing=config.global_mask_frac,
        first_frame=config.first_frame_frac,
        prediction=config.prediction_frac,
        infilling=config.infilling_frac,
    )


def given_frames(shares: Shares, level: int, length: int, seed: int, draw: int) -> Given:
    """One mask over the frames of a window at `level`; depends on nothing but the arguments."""
    place = torch.rand((), generator=draws.generator(seed, "mask", draw))
    until = shares.nothing
    if bool(place < until):
        return first_frames(0, length)
    until += shares.first_frame
    if bool(place < until):
        return first_frames(1, length)
    until += shares.prediction
    if bool(place < until):
        return first_frames(random_count(length, seed, draw), length)
    until += shares.infilling
    if bool(place < until):
        return scattered_frames(length, seed, draw)
    return first_frames(0, length) if level == 0 else ends(length)


def first_frames(count: int, length: int) -> Given:
    """The first `count` frames are given."""
    return tuple(frame < count for frame in range(length))


def ends(length: int) -> Given:
    """The first and the last frame are given."""
    return tuple(frame in (0, length - 1) for frame in range(length))


def scattered_frames(length: int, seed: int, draw: int) -> Given:
    """Any frames are given, at least one and not all."""
    order = torch.randperm(length, generator=draws.generator(seed, "mask frames", draw)).tolist()
    chosen = set(order[: random_count(length, seed, draw)])
    return tuple(frame in chosen for frame in range(length))


def random_count(length: int, seed: int, draw: int) -> int:
    """How many frames are given: at least one, and not all."""
    return int(torch.randint(1, length, (), generator=draws.generator(seed, "mask count", draw)))
