"""Which windows may run next: integers only, so that every promise about order and memory is tested without a network.

A window may start as soon as the two frames at its ends exist; there is no barrier between levels. Of the windows that
may start, those that the video needs first go first, deepest level first, and a level runs only when a whole round of
its windows is ready or no more of them can come. So every level takes exactly ⌈windows / round⌉ rounds, and what has to
be remembered grows with the depth and the round, never with the length of the video.
"""

import heapq
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field

from nuwa.hierarchy import Window, children


@dataclass
class _Level:
    """Windows of one level that have yet to run: those ready, in time order, and how many are still to come."""

    waiting: list[Window] = field(default_factory=list)
    to_come: int = 0


class ReadyWindows:
    """The order in which the windows of `levels` run, a round of at most `size` windows of one level at a time.

    `skip` are windows that need not run: finished earlier, given as a whole, or needed for nothing. `given` are frame
    numbers that exist from the start: a window between two of them does not wait for the window above.
    """

    def __init__(
        self,
        levels: Sequence[Sequence[Window]],
        length: int,
        size: int,
        *,
        given: Container[int] = (),
        skip: Container[Window] = (),
    ) -> None:
        if size < 1:
            raise ValueError(f"a round of {size} windows runs nothing; give at least 1")
        self.size, self.length = size, length
        self._plan, self._skip, self._given = levels, skip, given
        self._levels = [_Level() for _ in levels]
        self.left = 0
        """Windows that are not done, running ones included."""
        for window in (window for level in levels for window in level if window not in skip):
            self._enter(window)

    def take(self) -> list[Window]:
        """The next round; empty when nothing may run before windows that run now are done.

        It is of the level of the earliest ready window, of the deepest such level; while windows of that level are
        missing from a whole round and can still come, it is of the next level above that can fill one.
        """
        heads = [(-level.waiting[0].first, number) for number, level in enumerate(self._levels) if level.waiting]
        wanted = max(heads, default=(0, -1))[1]
        for level in reversed(self._levels[: wanted + 1]):
            if level.waiting and (len(level.waiting) >= self.size or not level.to_come):
                return [heapq.heappop(level.waiting) for _ in range(min(self.size, len(level.waiting)))]
        return []

    def done(self, window: Window) -> None:
        """`window` is made: those of its children that waited for it are ready now."""
        self.left -= 1
        for child in children(window, self._plan, self.length):
            if child not in self._skip and not self._has_ends(child):
                self._levels[child.level].to_come -= 1
                heapq.heappush(self._levels[child.level].waiting, child)

    @property
    def waiting(self) -> int:
        """Windows that are ready and have not been taken."""
        return sum(len(level.waiting) for level in self._levels)

    def _enter(self, window: Window) -> None:
        level = self._levels[window.level]
        self.left += 1
        if window.level == 0 or self._has_ends(window) or self._parent_of(window) in self._skip:
            level.waiting.append(window)  # in time order, so already a heap
        else:
            level.to_come += 1

    def _has_ends(self, window: Window) -> bool:
        return window.first in self._given and window.last(self.length) in self._given

    def _parent_of(self, window: Window) -> Window:
        return self._plan[window.level - 1][window.index // (self.length - 1)]


def spared_windows(
    levels: Sequence[Sequence[Window]],
    length: int,
    num_frames: int,
    given: Collection[int],
    finished: Collection[Window] = (),
) -> set[Window]:
    """Windows that need not run, `finished` ones aside.

    At the deepest level those of which the video shows given frames only; above it those that no window below needs,
    because each is finished, spared or has two given frames at its ends.
    """
    if not given and not finished:
        return set()
    frames, done = frozenset(given), set(finished)
    for window in (window for level in reversed(levels) for window in level):
        below = children(window, levels, length)
        if below:
            need = [end for child in below if child not in done for end in (child.first, child.last(length))]
        else:
            need = [frame for frame in window.frames(length) if frame < num_frames]
        if frames.issuperset(need):
            done.add(window)
    return done.difference(finished)
