"""Rows of images for joint batches: single frames of all runs, dealt out so that those of a row are of many runs."""

from collections.abc import Sequence

import numpy as np

from nuwa.data.runs import Run


class ImageRows:
    """Frames of all runs, `length` to a row: the first frame of every run, the second of every run, and so on.

    So the frames of a row are of different runs wherever at least `length` runs are long enough to have them. Each
    frame is in one row only; fewer than `length`, the last of the longest run, are in none. Which frames share a row
    means nothing to a network that sees each alone, so rows stay the same in every epoch.

    Paper: images are appended to each video (Ho et al. 2022, arXiv 2204.03458, Sec. 3); here: rows of their own,
    because windows of all levels then keep their length.
    """

    def __init__(self, runs: Sequence[Run], *, length: int, hop: int = 1) -> None:
        self.length, self.hop = length, hop
        self.runs = sorted(runs, key=lambda run: -run.num_frames)
        shortest_first = np.array([-(-run.num_frames // hop) for run in reversed(self.runs)])
        numbers = np.arange(shortest_first[-1])
        have_it = len(self.runs) - np.searchsorted(shortest_first, numbers, side="right")  # runs with that frame
        self._ends = np.cumsum(have_it, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) // self.length

    def places(self, row: int) -> list[tuple[Run, int]]:
        """Run and number of every frame of a row."""
        return [self._place(place) for place in range(row * self.length, (row + 1) * self.length)]

    def _place(self, place: int) -> tuple[Run, int]:
        number = int(np.searchsorted(self._ends, place, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return self.runs[place - before], number * self.hop
