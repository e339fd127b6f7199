"""Scene cuts: PySceneDetect's detectors fed frame by frame; hard cuts, fades through black and dissolves in
one ordered stream.

Frames count from 0 at the first decoded one; a cut is the first frame of the new scene. Everything is counted
in frames, so the result does not depend on what the header says about rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

from curation.config import SceneConfig

# The detectors want a frame rate only to print times; with lengths given in frames it has no effect.
_ANY_RATE = Fraction(25)

_RANK = {"hard": 0, "dissolve": 1, "fade": 2}

# Dissolves; chosen on training episodes of the toon world and on real films, see tests.
_STRONG_CHANGE = 15.0  # of 255
_LEAST_CHANGED = 0.3
_LEAST_REMAINDER = 0.2
_MEAN_TOLERANCE = 0.2
_LEAST_MEAN_SHARE = 0.6


@dataclass(frozen=True)
class Cut:
    """`frame`: first frame of the new scene (the middle of a fade or dissolve); `kind`: hard, fade or
    dissolve.
    """

    frame: int
    kind: str


class SceneDetector:
    """Takes frames one by one and answers with the cuts that have become certain, in order, some frames after
    the event.

    Cuts are at least `min_scene_frames` apart; within that distance a fade wins over a dissolve and both win
    over a hard cut. With fades and dissolves off, the hard cuts are exactly those of PySceneDetect.
    """

    def __init__(self, config: SceneConfig) -> None:
        self._config = config
        self._hard = _hard_cut_detector(config)
        self._fade = _fade_detector(config)
        self._dissolve = DissolveDetector(config.dissolve_window_frames) if config.dissolve_window_frames else None
        self._held: list[Cut] = []
        self._last: Cut | None = None

    def feed(self, index: int, image: np.ndarray) -> list[Cut]:
        """Add frame `index`, (h w 3) uint8 BGR at detection size; returns the cuts that have become certain."""
        timecode = FrameTimecode(index, fps=_ANY_RATE)
        self._held += [Cut(cut.frame_num, "hard") for cut in self._hard.process_frame(timecode, image)]
        if self._fade:
            self._held += [Cut(cut.frame_num, "fade") for cut in self._fade.process_frame(timecode, image)]
        if self._dissolve:
            self._held += [Cut(frame, "dissolve") for frame in self._dissolve.feed(index, image)]
        if self._fade and self._fade.last_fade["type"] == "out":
            return []
        return self._release(index - self._hold_frames())

    def finish(self) -> list[Cut]:
        """The cuts still held back at the end of the video."""
        return self._release(None)

    def _hold_frames(self) -> int:
        """How long a cut waits for a stronger one nearby: nothing to wait for when only hard cuts are looked
        for.
        """
        if not self._fade and not self._dissolve:
            return 0
        return self._config.min_scene_frames + (self._config.dissolve_window_frames or 0)

    def _release(self, up_to: int | None) -> list[Cut]:
        ready = [cut for cut in self._held if up_to is None or cut.frame <= up_to]
        stronger = [cut for cut in ready if not self._loses(cut)]
        self._held = [cut for cut in self._held if cut not in ready]
        accepted = []
        for cut in sorted(stronger, key=lambda cut: cut.frame):
            if self._last is None or not self._too_close(cut, self._last):
                accepted.append(cut)
                self._last = cut
        return accepted

    def _loses(self, cut: Cut) -> bool:
        rivals = [*self._held, self._last] if self._last else self._held
        return any(_RANK[rival.kind] > _RANK[cut.kind] and self._too_close(cut, rival) for rival in rivals)

    def _too_close(self, cut: Cut, other: Cut) -> bool:
        if cut.kind == other.kind == "hard":
            return False  # the detector has its own rule
        return abs(cut.frame - other.frame) < self._config.min_scene_frames


class DissolveDetector:
    """Finds the middles of dissolves: much has changed across the window, and the frame in its middle is the
    mean of its ends.

    Motion leaves ghosts in a mean that no real frame shows, a cut makes the middle equal to one end, and a
    fade or a change of light scales the picture; so only cross-dissolves pass. Works on 32 x 32 px, on the
    strongly changed values only.
    """

    def __init__(self, window_frames: int) -> None:
        self._ring: deque[np.ndarray] = deque(maxlen=window_frames + 1)
        self._best: tuple[float, int] | None = None

    def feed(self, index: int, image: np.ndarray) -> list[int]:
        """Add frame `index`, (h w 3) uint8; returns the middle of a dissolve that has just been passed."""
        self._ring.append(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))
        if len(self._ring) < (self._ring.maxlen or 0):
            return []
        half = len(self._ring) // 2
        share = mean_share(self._ring[0], self._ring[half], self._ring[-1])
        if share >= _LEAST_MEAN_SHARE:
            self._best = max(self._best or (0.0, 0), (share, index - half))
            return []
        passed, self._best = self._best, None
        return [passed[1]] if passed else []


def mean_share(before: np.ndarray, middle: np.ndarray, after: np.ndarray) -> float:
    """Share of the strongly changed values of three float images that are, in the middle one, the mean of the
    others.

    0 where less than `_LEAST_CHANGED` of the picture has changed, or where one end is just a brighter copy of
    the other.
    """
    change = np.abs(after - before)
    changed = change > _STRONG_CHANGE
    if changed.mean() < _LEAST_CHANGED or _rescaled_distance(before, after) < _LEAST_REMAINDER * change.mean():
        return 0.0
    deviation = np.abs(middle - (before + after) / 2)
    return float((deviation[changed] <= _MEAN_TOLERANCE * change[changed]).mean())


def _rescaled_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference that remains when either image may be scaled to the other."""
    product = float((a * b).sum())
    a_scale, b_scale = product / max(float((a * a).sum()), 1.0), product / max(float((b * b).sum()), 1.0)
    return min(float(np.abs(b - a_scale * a).mean()), float(np.abs(a - b_scale * b).mean()))


def find_cuts(images: Iterable[np.ndarray], config: SceneConfig) -> list[Cut]:
    """All cuts of a sequence of (h w 3) uint8 BGR frames at detection size."""
    detector = SceneDetector(config)
    cuts = [cut for index, image in enumerate(images) for cut in detector.feed(index, image)]
    return cuts + detector.finish()


def _hard_cut_detector(config: SceneConfig) -> AdaptiveDetector | ContentDetector:
    if config.detector == "content":
        return ContentDetector(threshold=config.content_threshold, min_scene_len=config.min_scene_frames)
    return AdaptiveDetector(
        adaptive_threshold=config.adaptive_threshold,
        min_scene_len=config.min_scene_frames,
        window_width=config.adaptive_window_frames,
        min_content_val=config.min_content_value,
    )


def _fade_detector(config: SceneConfig) -> ThresholdDetector | None:
    if config.fade_threshold is None:
        return None
    return ThresholdDetector(threshold=config.fade_threshold, min_scene_len=config.min_scene_frames)
