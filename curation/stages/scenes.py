"""Scene cuts: a cascade of detectors at several frame rates (SVD, arXiv 2311.15127, Sec. 3.1), fades through black and
white, and dissolves, all in one pass and merged into one ordered stream.

Frames count from 0 at the first decoded one; a cut is the first frame of the new scene. Detectors at the native rate
count frames, so their result does not depend on what the header says about rate; the others go by presentation time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from curation.cut_rules import (
    AdaptiveRule,
    ContentRule,
    DissolveRule,
    FadeRule,
    ScoreRule,
    Transition,
    content_change,
)
from curation.decode_config import CutDetectorConfig, SceneConfig

# Which of two cuts that are too close stays; "gradual" is seen at a lower rate only.
_RANK = {"gradual": 0, "hard": 1, "dissolve": 2, "fade": 3}

# Share of the change between two samples of a lower rate that a single frame holds where it is a hard cut.
_SUDDEN_SHARE = 0.5
_DISSOLVE_FPS = 16.0
_DISSOLVE_PX = 32


@dataclass(frozen=True)
class Cut:
    """`frame`: first frame of the new scene (the middle of a fade or dissolve); `kind`: hard, fade or dissolve, which
    stands for every gradual change, wipes too.
    """

    frame: int
    kind: str


@dataclass(frozen=True)
class _Event:
    """Something a rule has seen at `frame`, spread over [first, last]."""

    frame: int
    first: int
    last: int
    seen: str
    kind: str


class SceneDetector:
    """Takes frames one by one and answers with the cuts that have become certain, in order, some frames after
    the event.

    Cuts are at least `min_scene_frames` apart; within that distance a fade wins over a dissolve, both win over a hard
    cut, and all over what only a lower rate sees. With one detector at the native rate and nothing else, the cuts are
    exactly those of PySceneDetect.
    """

    def __init__(self, config: SceneConfig) -> None:
        self._min_frames = config.min_scene_frames
        self._detectors = [_RatedDetector(each, config.min_scene_frames) for each in config.detectors]
        self._fade = _fade_rule(config)
        self._dissolve = DissolveRule(config.dissolve_window_s) if config.dissolve_window_s else None
        self._dissolve_clock = SampleClock(_DISSOLVE_FPS)
        rivals = self._fade or self._dissolve or any(each.fps for each in config.detectors)
        self._wait_frames = config.min_scene_frames if rivals else 0
        self._earlier: np.ndarray | None = None
        self._changes: deque[tuple[int, float]] = deque()
        self._held: list[_Event] = []
        self._past: deque[_Event] = deque(maxlen=8)
        self.certain_before = 0
        """No cut will be reported before this frame any more."""

    def feed(self, index: int, time_s: float, image: np.ndarray) -> list[Cut]:
        """Add frame `index`, (h w 3) uint8 BGR at detection size, all of one size; returns the cuts now certain."""
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        change = content_change(self._earlier, hsv) if self._earlier is not None else 0.0
        self._earlier = hsv
        self._changes.append((index, change))
        for detector in self._detectors:
            for first, last in detector.feed(index, time_s, hsv, change):
                self._held.append(self._located(first, last))
        if self._fade:
            level = sum(cv2.sumElems(image)[:3]) / image.size
            self._held += [_transition(found, "fade") for found in self._fade.feed(index, time_s, level)]
        if self._dissolve and self._dissolve_clock.is_due(time_s):
            found = self._dissolve.feed(index, time_s, _block_means(image, _DISSOLVE_PX))
            self._held += [_transition(each, "dissolve") for each in found]
        return self._release(self._open_from(index))

    def finish(self) -> list[Cut]:
        """The cuts still held back at the end of the video."""
        return self._release(None)

    def _open_from(self, index: int) -> int:
        """The earliest frame at which any rule may still report something."""
        open_from = [detector.open_from for detector in self._detectors]
        open_from += [rule.open_from for rule in (self._fade, self._dissolve) if rule]
        return min(open_from, default=index + 1)

    def _located(self, first: int, last: int) -> _Event:
        """What a detector saw between two of its samples, at the frame where the native rate saw most of it."""
        if first == last:
            return _Event(last, last, last, "hard", "hard")
        within = [(frame, change) for frame, change in self._changes if first <= frame <= last]
        total = sum(change for _, change in within)
        peak, largest = max(within, key=lambda item: item[1])
        if largest >= _SUDDEN_SHARE * total:
            return _Event(peak, peak, peak, "gradual", "hard")
        so_far = itertools.accumulate(change for _, change in within)
        middle = next(frame for (frame, _), done in zip(within, so_far, strict=True) if done >= total / 2)
        return _Event(middle, first, last, "gradual", "dissolve")

    def _release(self, open_from: int | None) -> list[Cut]:
        certain_before = None if open_from is None else open_from - self._wait_frames
        ready = [event for event in self._held if certain_before is None or event.frame < certain_before]
        stronger = [event for event in ready if not self._loses(event)]
        self._held = [event for event in self._held if event not in ready]
        accepted = []
        for event in sorted(stronger, key=lambda event: event.frame):
            if not self._past or not self._too_close(event, self._past[-1]):
                accepted.append(Cut(event.frame, event.kind))
                self._past.append(event)
        if certain_before is not None:
            self.certain_before = max(self.certain_before, certain_before)
            while self._changes and self._changes[0][0] < self.certain_before:
                self._changes.popleft()
        return accepted

    def _loses(self, event: _Event) -> bool:
        rivals = [*self._held, *self._past]
        return any(_RANK[rival.seen] > _RANK[event.seen] and self._too_close(event, rival) for rival in rivals)

    def _too_close(self, event: _Event, other: _Event) -> bool:
        if event.seen == other.seen == "hard":
            return False  # the detector has its own rule
        if "gradual" in (event.seen, other.seen):
            gap = max(event.first, other.first) - min(event.last, other.last)
            return gap < self._min_frames
        return abs(event.frame - other.frame) < self._min_frames


class SampleClock:
    """Picks frames at a rate: one whenever the next multiple of 1/fps, from the first frame on, has come."""

    def __init__(self, fps: float) -> None:
        self._step_s = 1.0 / fps
        self._next_s: float | None = None

    def is_due(self, time_s: float) -> bool:
        """Whether the frame at `time_s` is picked (within 1 ms); ask once per frame."""
        if self._next_s is None:
            self._next_s = time_s
        if time_s < self._next_s - 1e-3:
            return False
        behind = time_s >= self._next_s + self._step_s
        self._next_s = (time_s if behind else self._next_s) + self._step_s
        return True


class _RatedDetector:
    """One detector on the frames of its rate; a cut is a span of frames that the event lies in."""

    def __init__(self, config: CutDetectorConfig, min_frames: int) -> None:
        self._rule = _score_rule(config, min_frames)
        self._clock = SampleClock(config.fps) if config.fps else None
        self._earlier: tuple[int, np.ndarray] | None = None
        self._spans: deque[tuple[int, int]] = deque()

    @property
    def open_from(self) -> int:
        """The earliest frame at which it may still report something."""
        if self._clock is None:
            return self._rule.open_from
        for first, sample in self._spans:
            if sample >= self._rule.open_from:
                return first
        return self._spans[-1][1] + 1 if self._spans else 0

    def feed(self, index: int, time_s: float, hsv: np.ndarray, change: float) -> list[tuple[int, int]]:
        """Add a frame, (h w 3) uint8 HSV, and its change since the one before; returns [first, last] of each cut."""
        if self._clock is None:
            return [(cut, cut) for cut in self._rule.feed(index, change)]
        if not self._clock.is_due(time_s):
            return []
        previous, self._earlier = self._earlier, (index, hsv)
        score = content_change(previous[1], hsv) if previous else 0.0
        self._spans.append((previous[0] + 1 if previous else index, index))
        cuts = set(self._rule.feed(index, score))
        found = [span for span in self._spans if span[1] in cuts]
        while len(self._spans) > 1 and self._spans[0][1] < self._rule.open_from:
            self._spans.popleft()
        return found


def find_cuts(images: Iterable[np.ndarray], config: SceneConfig, fps: float = 25.0) -> list[Cut]:
    """All cuts of a sequence of (h w 3) uint8 BGR frames at detection size, shown at a constant rate."""
    detector = SceneDetector(config)
    cuts = [cut for index, image in enumerate(images) for cut in detector.feed(index, index / fps, image)]
    return cuts + detector.finish()


def _block_means(image: np.ndarray, long_side_px: int) -> np.ndarray:
    """(h w 3) float32: means of square blocks, as many as make a long side of about `long_side_px`."""
    block = max(1, round(max(image.shape[:2]) / long_side_px))
    height, width = (max(1, side // block) for side in image.shape[:2])
    whole = image[: height * block, : width * block]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def _score_rule(config: CutDetectorConfig, min_frames: int) -> ScoreRule:
    if config.detector == "content":
        return ContentRule(config.threshold, min_frames)
    return AdaptiveRule(config.threshold, config.window_frames, config.min_content_value, min_frames)


def _fade_rule(config: SceneConfig) -> FadeRule | None:
    if config.fade_threshold is None and config.white_threshold is None:
        return None
    return FadeRule(config.fade_threshold, config.white_threshold, config.min_scene_frames, config.longest_fade_s)


def _transition(found: Transition, kind: str) -> _Event:
    return _Event(found.frame, found.first, found.last, kind, kind)
