"""Integers of Diffusion over Diffusion: levels, windows, strides, crops and parents (NUWA-XL Sec. 3.3).

Levels count from 0, the global one. Depth is the number of levels, the global one included. A window holds
`length` frames (L in the paper) that lie `stride` frames apart in the finished video; the two ends of every
local window are neighbours in its parent window.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class NuwaError(ValueError):
    """Something the user must change; the message is one line that says what is wrong and what to do."""


@dataclass(frozen=True, order=True)
class Window:
    """`length` frames at one level: frame `n` of the window is frame `first + n * stride` of the video."""

    level: int
    index: int
    first: int
    stride: int

    def frames(self, length: int) -> list[int]:
        """Frame numbers in the finished video; those past the end of a cropped video are thrown away."""
        return [self.first + n * self.stride for n in range(length)]

    def last(self, length: int) -> int:
        """Number of the last frame in the finished video, which may lie past the end of a cropped one."""
        return self.first + (length - 1) * self.stride


def _check(length: int, depth: int = 1) -> None:
    if length < 3:
        raise NuwaError(f"a window of {length} frames has nothing to fill in; give a length of at least 3")
    if depth < 1:
        raise NuwaError(f"depth {depth} has no global level; give a depth of at least 1")


def num_frames(length: int, depth: int) -> int:
    """Frames of the whole tree, N(L, m) = (L−1)^m + 1 (NUWA-XL Sec. 3.3)."""
    _check(length, depth)
    return (length - 1) ** depth + 1


def windows_at(level: int, length: int) -> int:
    """Number of windows of `length` frames at `level` (0 = global): (L−1)^level (NUWA-XL Sec. 3.3)."""
    return (length - 1) ** level


def strides(length: int, depth: int) -> list[int]:
    """Frames between neighbours at each level, global first (225, 15, 1 for L = 16, m = 3)."""
    _check(length, depth)
    return [(length - 1) ** (depth - 1 - level) for level in range(depth)]


def depth_for(frames: int, length: int) -> int:
    """The smallest depth whose tree holds `frames` frames."""
    depth = 1
    while num_frames(length, depth) < frames:
        depth += 1
    return depth


def plan(num_frames: int, length: int, depth: int | None = None) -> list[list[Window]]:
    """Windows to run for a video of `num_frames` frames, one list per level, global first.

    Paper: lengths that are no power are not explained; here: the tree is cropped, so that a window runs only
    if a frame after its first one lies inside the video, made by itself or by its children.
    """
    if num_frames < 1:
        raise NuwaError(f"{num_frames} frames is no video; ask for at least 1")
    needed = depth_for(num_frames, length)
    depth = needed if depth is None else depth
    if depth < needed:
        longest = (length - 1) ** depth + 1 if depth > 0 else 0
        raise NuwaError(
            f"depth {depth} with windows of {length} frames reaches {longest} frames, not {num_frames}; "
            f"ask for fewer frames or a depth of at least {needed}"
        )
    return [_level(level, stride, num_frames, length) for level, stride in enumerate(strides(length, depth))]


def _level(level: int, stride: int, num_frames: int, length: int) -> list[Window]:
    span = (length - 1) * stride
    count = max(1, -(-(num_frames - 1) // span))
    return [Window(level, index, index * span, stride) for index in range(count)]


def parent(window: Window, length: int) -> tuple[Window, int] | None:
    """The window that made both ends of `window`, and the position there of its first frame.

    The last frame of `window` is the next position. None for the global window.
    """
    if window.level == 0:
        return None
    index, position = divmod(window.index, length - 1)
    stride = window.stride * (length - 1)
    return Window(window.level - 1, index, index * stride * (length - 1), stride), position


def parents(window: Window, length: int) -> list[Window]:
    """All ancestors of `window`, nearest first; empty for the global window."""
    above = parent(window, length)
    return [] if above is None else [above[0], *parents(above[0], length)]


def children(window: Window, levels: Sequence[Sequence[Window]], length: int) -> Sequence[Window]:
    """The windows of a plan that lie between the frames of `window`, in time order; none at the deepest level.

    Child n has frames n and n + 1 of `window` at its ends.
    """
    if window.level + 1 == len(levels):
        return []
    return levels[window.level + 1][window.index * (length - 1) : (window.index + 1) * (length - 1)]
