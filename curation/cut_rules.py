"""Rules that say from numbers of one frame after another where a video is cut: PySceneDetect's content and adaptive
rules, its threshold rule for fades extended to white, and a test for dissolves.

A rule is fed frames in order, not necessarily every one; frames are named by their index in the video. `open_from` is
the earliest frame at which it may still report something. Written over numbers, not pictures, so that rules at several
rates share what one look at a frame has measured; tests hold them against PySceneDetect 0.7's own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

# PySceneDetect's ratio where the neighbours do not change at all.
_LARGEST_RATIO = 255.0
_NO_CHANGE = 1e-5

# Dissolves; chosen on training episodes of the toon world and on real films, see tests.
_STRONG_CHANGE = 15.0  # of 255
_LEAST_CHANGED = 0.3
_LEAST_REMAINDER = 0.2
_MEAN_TOLERANCE = 0.2
_LEAST_MEAN_SHARE = 0.6
_LEAST_SAMPLES = 5


class ScoreRule(Protocol):
    """Finds cuts in the content change from each frame to the next."""

    open_from: int

    def feed(self, index: int, score: float) -> list[int]:
        """Add the change up to frame `index`, 0..255; returns the first frames of new scenes now certain."""


def content_change(earlier: np.ndarray, later: np.ndarray) -> float:
    """PySceneDetect's content value, 0..255: mean absolute difference of two (h w 3) uint8 HSV images, over all three.

    OpenCV's hue counts half degrees.
    """
    sums = cv2.sumElems(cv2.absdiff(earlier, later))[:3]
    return float(sum(total / (later.shape[0] * later.shape[1]) for total in sums) / 3.0)


class AdaptiveRule:
    """A cut where the change is `threshold` times the mean of `window` neighbours on each side, and at least
    `min_content`; at least `min_frames` after the one before.
    """

    def __init__(self, threshold: float, window: int, min_content: float, min_frames: int) -> None:
        self._threshold, self._window, self._min_content, self._min_frames = threshold, window, min_content, min_frames
        self._recent: deque[tuple[int, float]] = deque(maxlen=1 + 2 * window)
        self._last: int | None = None
        self.open_from = 0

    def feed(self, index: int, score: float) -> list[int]:
        """See ScoreRule."""
        self._last = index if self._last is None else self._last
        self._recent.append((index, score))
        if len(self._recent) < 1 + 2 * self._window:
            return []
        target, change = self._recent[self._window]
        self.open_from = self._recent[self._window + 1][0]
        if self._ratio(change) < self._threshold or change < self._min_content:
            return []
        if target - self._last < self._min_frames:
            return []
        self._last = target
        return [target]

    def _ratio(self, change: float) -> float:
        others = [score for k, (_, score) in enumerate(self._recent) if k != self._window]
        mean = sum(others) / (2.0 * self._window)
        if mean >= _NO_CHANGE:
            return min(change / mean, _LARGEST_RATIO)
        return _LARGEST_RATIO if change >= self._min_content else 0.0


class ContentRule:
    """A cut where the change is at least `threshold`; a flurry of them becomes one, when `min_frames` have passed
    without.
    """

    def __init__(self, threshold: float, min_frames: int) -> None:
        self._threshold, self._min_frames = threshold, min_frames
        self._last_above: int | None = None
        self._flurry_from: int | None = None
        self._any_cut = False
        self.open_from = 0

    def feed(self, index: int, score: float) -> list[int]:
        """See ScoreRule."""
        self._last_above = index if self._last_above is None else self._last_above
        above, quiet = score >= self._threshold, index - self._last_above >= self._min_frames
        self._last_above = index if above else self._last_above
        self.open_from = index + 1
        if self._flurry_from is not None:
            return self._end_flurry(self._flurry_from, ended=quiet and not above)
        if above and quiet:
            self._any_cut = True
            return [index]
        if above and self._any_cut:
            self._flurry_from = self.open_from = index
        return []

    def _end_flurry(self, first: int, ended: bool) -> list[int]:
        assert self._last_above is not None
        if ended and self._last_above - first >= self._min_frames:
            self._flurry_from = None
            return [self._last_above]
        self.open_from = first
        return []


@dataclass(frozen=True)
class Transition:
    """A fade or dissolve: the frame in its middle, and those between which it is seen."""

    frame: int
    first: int
    last: int


class FadeRule:
    """PySceneDetect's threshold rule, through black and through white: the middle between leaving and returning.

    A picture that stays away longer than `longest_s` is a scene of its own: its edges are reported instead, the first
    one as soon as that is known, so that nothing waits for an hour of black to end.
    """

    def __init__(self, black: float | None, white: float | None, min_frames: int, longest_s: float) -> None:
        self._black = int(black) if black is not None else None
        self._white, self._min_frames, self._longest_s = white, min_frames, longest_s
        self._out_at: tuple[int, float] | None = None
        self._is_long = False
        self._last_cut: int | None = None
        self.open_from = 0

    def feed(self, index: int, time_s: float, level: float) -> list[Transition]:
        """Add a frame whose values have the mean `level`, 0..255."""
        self.open_from = index + 1
        if self._last_cut is None:
            self._last_cut = index
        if not self._is_gone(level):
            return self._returned(index)
        if self._out_at is None:
            self._out_at, self._is_long = (index, time_s), False
        return self._still_gone(*self._out_at, index, time_s)

    def _is_gone(self, level: float) -> bool:
        is_black = self._black is not None and level < self._black
        return is_black or (self._white is not None and level >= self._white)

    def _still_gone(self, out: int, out_s: float, index: int, time_s: float) -> list[Transition]:
        if not self._is_long and time_s - out_s > self._longest_s:
            self._is_long = True
            return self._reported(out, Transition(out, out, out))
        if not self._is_long:
            self.open_from = out
        return []

    def _returned(self, index: int) -> list[Transition]:
        if self._out_at is None:
            return []
        out, self._out_at = self._out_at[0], None
        middle = index if self._is_long else out + round((index - out) / 2.0)
        return self._reported(index, Transition(middle, index if self._is_long else out, index))

    def _reported(self, at: int, transition: Transition) -> list[Transition]:
        assert self._last_cut is not None
        if at - self._last_cut < self._min_frames:
            return []
        self._last_cut = at
        return [transition]


class DissolveRule:
    """Finds dissolves: much has changed across the window, and the frame in its middle is the mixture of its ends.

    Motion leaves ghosts in a mixture that no real frame shows, a cut makes the middle equal to one end, and a fade or a
    change of light scales the picture; so only cross-dissolves pass. Works on 32 x 32 px at most, on the strongly
    changed values only.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._ring: deque[tuple[int, float, np.ndarray]] = deque()
        self._best: tuple[float, Transition] | None = None
        self.open_from = 0

    def feed(self, index: int, time_s: float, image: np.ndarray) -> list[Transition]:
        """Add frame `index`, (h w 3) float32, 0..255; returns the dissolve that has just been passed."""
        self._ring.append((index, time_s, image))
        while len(self._ring) > 2 and time_s - self._ring[1][1] >= self._window_s - 1e-3:
            self._ring.popleft()
        if len(self._ring) < _LEAST_SAMPLES or time_s - self._ring[0][1] < self._window_s - 1e-3:
            self.open_from = max(self.open_from, self._ring[0][0])
            return []
        middle, share = self._middle()
        if share >= _LEAST_MEAN_SHARE:
            found = (share, Transition(middle, self._ring[0][0], index))
            self._best = found if self._best is None or share >= self._best[0] else self._best
            return []
        self.open_from = middle + 1
        passed, self._best = self._best, None
        return [passed[1]] if passed else []

    def _middle(self) -> tuple[int, float]:
        """Frame in the middle of the window, and its `mixture_share`."""
        (_, first_s, before), (_, last_s, after) = self._ring[0], self._ring[-1]
        index, time_s, image = self._ring[len(self._ring) // 2]
        weight = (time_s - first_s) / (last_s - first_s)
        return index, mixture_share(before, image, after, weight)


def mixture_share(before: np.ndarray, middle: np.ndarray, after: np.ndarray, weight: float = 0.5) -> float:
    """Share of the strongly changed values of three float images that, in the middle one, mix the others: `weight` of
    `after` and the rest of `before`.

    0 where less than `_LEAST_CHANGED` of the picture has changed, or where one end is just a brighter copy of the
    other.
    """
    change = cv2.absdiff(after, before)
    changed = change > _STRONG_CHANGE
    if np.count_nonzero(changed) < _LEAST_CHANGED * changed.size:
        return 0.0
    if _rescaled_distance(before, after) < _LEAST_REMAINDER * change.mean():
        return 0.0
    deviation = np.abs(middle - cv2.addWeighted(before, 1.0 - weight, after, weight, 0.0))
    return float((deviation[changed] <= _MEAN_TOLERANCE * change[changed]).mean())


def _rescaled_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference that remains when either image may be scaled to the other."""
    product = float((a * b).sum())
    a_scale, b_scale = product / max(float((a * a).sum()), 1.0), product / max(float((b * b).sum()), 1.0)
    return min(float(np.abs(b - a_scale * a).mean()), float(np.abs(a - b_scale * b).mean()))
