"""Motion score: mean magnitude of dense optical flow between frames two a second apart (SVD, arXiv
2311.15127, App. C).

Unit: frame heights per second. Dividing by the height and the true time between the frames makes scores of
one clip at different resolutions and rates agree; the size at which the flow is computed and the method still
matter and are part of the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from curation.config import MotionConfig

# Farneback as every peer calls it: pyramid scale 0.5, 3 levels, window 15 px, 3 iterations, 5 px neighbourhood,
# sigma 1.2.
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


@dataclass(frozen=True)
class FlowPair:
    """Motion between two sampled frames: indices and times of both, and the mean speed in frame heights per
    second.
    """

    first: int
    second: int
    first_s: float
    second_s: float
    speed: float


class MotionMeter:
    """Takes frames one by one, samples them on a fixed clock, and keeps the speed of every pair of
    neighbouring samples.

    Cuts become known only after the event, so pairs are measured as they come and those across a cut are
    dropped later.
    """

    def __init__(self, config: MotionConfig) -> None:
        self._config = config
        self._previous: tuple[int, float, np.ndarray] | None = None
        self._pairs: list[FlowPair] = []
        self._next_s: float | None = None

    def wants(self, time_s: float) -> bool:
        """Whether the frame at `time_s` is due as a sample (within 1 ms)."""
        return self._next_s is None or time_s >= self._next_s - 1e-3

    def feed(self, index: int, time_s: float, image: np.ndarray) -> None:
        """Add a sample: (h w 3) uint8 RGB."""
        grey = cv2.cvtColor(resize_short_side(image, self._config.short_side_px), cv2.COLOR_RGB2GRAY)
        if self._config.blur_px:
            grey = cv2.GaussianBlur(grey, (0, 0), self._config.blur_px)
        if self._previous is not None:
            first, first_s, earlier = self._previous
            if time_s - first_s <= self._config.largest_gap_s and earlier.shape == grey.shape:
                self._pairs.append(FlowPair(first, index, first_s, time_s, flow_speed(earlier, grey, time_s - first_s)))
        self._previous = (index, time_s, grey)
        step_s = 1.0 / self._config.sample_fps
        due_s = time_s if self._next_s is None else self._next_s
        self._next_s = due_s + step_s if time_s < due_s + step_s else time_s + step_s

    def take(self, first: int, end: int, clear_from_s: float, clear_to_s: float) -> float | None:
        """Mean speed over the pairs inside frames [first, end), which are forgotten with all before; null
        without a pair.

        Pairs between `clear_from_s` and `clear_to_s` are preferred: a fade or dissolve at either end looks
        like motion.
        """
        inside = [pair for pair in self._pairs if pair.first >= first and pair.second < end]
        clear = [pair for pair in inside if pair.first_s >= clear_from_s and pair.second_s <= clear_to_s]
        self._pairs = [pair for pair in self._pairs if pair.second >= end]
        return float(np.mean([pair.speed for pair in clear or inside])) if inside else None


def flow_speed(earlier: np.ndarray, later: np.ndarray, gap_s: float) -> float:
    """Mean flow magnitude of two (h w) uint8 images, px, over time and height: frame heights per second."""
    return flow_magnitude(earlier, later) / gap_s / earlier.shape[0]


def flow_magnitude(earlier: np.ndarray, later: np.ndarray) -> float:
    """Mean magnitude of the flow between two (h w) uint8 images, px."""
    return float(np.linalg.norm(flow_field(earlier, later), axis=2).mean())


def flow_field(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Farneback's flow between two (h w) uint8 images: (h w 2) float32, x and y displacement in px."""
    return cv2.calcOpticalFlowFarneback(earlier, later, None, *_FARNEBACK)


def resize_short_side(image: np.ndarray, short_side_px: int) -> np.ndarray:
    """Scale (h w c) so that its short side is `short_side_px` and its long side at most eight times that."""
    height, width = image.shape[:2]
    scale = short_side_px / min(height, width)
    longest = 8 * short_side_px
    size = (min(longest, max(1, round(width * scale))), min(longest, max(1, round(height * scale))))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
