"""Do windows show where they meet? Motion breaks at keyframes, beside sharpness, so that blur cannot pass for calm.

Paper: seams are not measured; here: at a keyframe two windows that never saw each other meet, so what a seam breaks
is the second difference in time, |x_{n−1} − 2 x_n + x_{n+1}|. A still picture, and any video that changes at a steady
rate, has none. A mean at keyframes over the mean elsewhere of 1 says that nothing shows. A video that trembles in every
frame passes that, so the interior is compared with that of real video as well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuwa.hierarchy import NuwaError, plan

CHANGE_MARGIN = 4
"""Frames on either side of a change of prompt that count neither as keyframes nor as interior: half a second at 8 fps,
as long as half of the longest transition of the footage that the demo model learned from."""


@dataclass(frozen=True)
class Seams:
    """Second differences where windows meet, and where they do not.

    level: the keyframes are those that this level made
    keyframes: (k,), interior: (n,), mean second difference of each frame, 1 = from black to white
    """

    level: int
    keyframes: NDArray[np.float64]
    interior: NDArray[np.float64]

    @property
    def ratio(self) -> float:
        """Mean at keyframes over mean of the interior; 1.0 when neither moves, NaN when there are none of either."""
        return _over(self.keyframes, self.interior)


def jitter(made: Seams, real: Seams) -> float:
    """Mean second difference of the interior over that of real video: 1.0 when neither moves, NaN without interior.

    Trembling raises it, and with it hides seams from the ratio; blur lowers it, for which `gradient_energy` is there.
    """
    return _over(made.interior, real.interior)


def _over(some: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    if not (len(some) and len(others)):
        return float("nan")
    above, below = float(some.mean()), float(others.mean())
    if below == 0.0:
        return 1.0 if above == 0.0 else float("inf")
    return above / below


def seams(
    frames: Iterable[NDArray[np.generic]],
    length: int,
    depth: int | None = None,
    prompts: Sequence[str] | None = None,
    margin: int = CHANGE_MARGIN,
) -> list[Seams]:
    """Seams of one video at the keyframes of every level but the deepest, global first.

    The interior is the same for all: the frames that the deepest level made.

    frames: in order, each (h w c), uint8 or floating in [0, 1]
    length, depth: of the windows, as in `nuwa.hierarchy.plan`
    prompts: the prompt of every frame. The scene changes with it, so frames up to `margin` from a change are left out
    Raises NuwaError for fewer than 3 frames and for prompts that are not one per frame.
    """
    second = second_differences(frames)
    num_frames = len(second) + 2
    levels = made_at(num_frames, length, depth)[1:-1]
    steady = np.ones(num_frames, bool) if prompts is None else ~near_changes(prompts, margin)
    if len(steady) != num_frames:
        raise NuwaError(f"{len(steady)} prompts for {num_frames} frames; give one per frame")
    last, steady = int(levels.max()), steady[1:-1]
    interior = second[steady & (levels == last)]
    return [Seams(level, second[steady & (levels == level)], interior) for level in range(last)]


def pooled(videos: Sequence[Sequence[Seams]]) -> list[Seams]:
    """The seams of several videos of one depth as if they were one, level by level."""
    return [
        Seams(
            same[0].level,
            np.concatenate([seam.keyframes for seam in same]),
            np.concatenate([seam.interior for seam in same]),
        )
        for same in zip(*videos, strict=True)
    ]


def second_differences(frames: Iterable[NDArray[np.generic]]) -> NDArray[np.float64]:
    """Mean over pixels and channels of |x_{n−1} − 2 x_n + x_{n+1}| at all frames but the first and last: (n − 2,).

    frames: in order, each (h w c), uint8 or floating in [0, 1]; only three are held at once.
    """
    found: list[float] = []
    before: NDArray[np.float64] | None = None
    here: NDArray[np.float64] | None = None
    for frame in frames:
        after = _unit(frame)
        if before is not None and here is not None:
            found.append(float(np.abs(before - 2.0 * here + after).mean()))
        before, here = here, after
    if not found:
        raise NuwaError("a second difference needs 3 frames; give a longer video")
    return np.array(found)


def gradient_energy(frames: Iterable[NDArray[np.generic]]) -> NDArray[np.float64]:
    """Sharpness of each frame: mean of (x_{i+1,j} − x_{ij})² + (x_{i,j+1} − x_{ij})² over pixels and channels, (n,).

    frames: each (h w c), uint8 or floating in [0, 1]. Blur lowers it, noise raises it.
    """
    found = []
    for frame in frames:
        image = _unit(frame)
        down, right = np.diff(image, axis=0)[:, :-1], np.diff(image, axis=1)[:-1]
        found.append(float((down**2 + right**2).mean()))
    return np.array(found)


def made_at(num_frames: int, length: int, depth: int | None = None) -> NDArray[np.int64]:
    """The level that makes each frame, (n,): the first one with a window that holds it."""
    levels = plan(num_frames, length, depth)
    made = np.full(num_frames, len(levels) - 1)
    for level in reversed(range(len(levels))):
        numbers = [frame for window in levels[level] for frame in window.frames(length) if frame < num_frames]
        made[numbers] = level
    return made


def near_changes(prompts: Sequence[str], margin: int = CHANGE_MARGIN) -> NDArray[np.bool_]:
    """True for the `margin` frames before and after each change of prompt, (n,).

    A change between frames n − 1 and n lies in the second difference of both, so the least sensible margin is 1.
    """
    near = np.zeros(len(prompts), bool)
    for frame in range(1, len(prompts)):
        if prompts[frame] != prompts[frame - 1]:
            near[max(0, frame - margin) : frame + margin] = True
    return near


def _unit(frame: NDArray[np.generic]) -> NDArray[np.float64]:
    """Grey levels in [0, 1]."""
    scale = 255.0 if frame.dtype == np.uint8 else 1.0
    return np.asarray(frame, np.float64) / scale
