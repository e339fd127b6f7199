"""Motion score: mean magnitude of dense optical flow between frames sampled twice a second (SVD, arXiv 2311.15127,
App. C).

Unit: frame heights per second, unless px is asked for. Dividing by the height and the true time between the frames
makes scores of one clip at different resolutions and rates agree; the size at which the flow is computed and the method
still matter and are part of the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np

from curation.decode_config import MotionConfig

# Farneback as every peer calls it: pyramid scale 0.5, 3 levels, window 15 px, 3 iterations, 5 px neighbourhood,
# sigma 1.2.
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)

_LEAST_DIS_PX = 16


FlowMethod = Literal["farneback", "dis"]


@dataclass(frozen=True)
class FlowPair:
    """Motion between two sampled frames: indices and times of both, and the mean speed in the configured unit."""

    first: int
    second: int
    first_s: float
    second_s: float
    speed: float


class MotionMeter:
    """Takes frames one by one, samples them, and keeps the speed of every pair of neighbouring samples.

    Cuts become known only after the event, so pairs are measured as they come and those across a cut are
    dropped later. `stated_fps` is what the container says; only data-juicer's sampling goes by it.
    """

    def __init__(self, config: MotionConfig, stated_fps: float | None = None) -> None:
        self._config = config
        self._previous: tuple[int, float, np.ndarray] | None = None
        self._pairs: list[FlowPair] = []
        self._next_s: float | None = None
        self._every = max(1, round((stated_fps or 25.0) / config.sample_fps))

    def wants(self, index: int, time_s: float) -> bool:
        """Whether the frame is due as a sample (by the clock: within 1 ms)."""
        if self._config.sampling == "data_juicer":
            return index == 1 or index % self._every == 0
        return self._next_s is None or time_s >= self._next_s - 1e-3

    @property
    def long_side_px(self) -> int | None:
        """Samples may be reduced to this long side before they are fed; null: not at all."""
        return None if self._config.short_side_px is None else 2 * self._config.short_side_px

    def feed(self, index: int, time_s: float, image: np.ndarray) -> None:
        """Add a sample: (h w 3) uint8 RGB."""
        grey = self._prepared(image)
        if self._previous is not None:
            first, first_s, earlier = self._previous
            if time_s - first_s <= self._config.largest_gap_s and earlier.shape == grey.shape:
                speed = self._speed(earlier, grey, time_s - first_s)
                self._pairs.append(FlowPair(first, index, first_s, time_s, speed))
        self._previous = (index, time_s, grey)
        step_s = 1.0 / self._config.sample_fps
        due_s = time_s if self._next_s is None else self._next_s
        self._next_s = due_s + step_s if time_s < due_s + step_s else time_s + step_s

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        short_side_px = self._config.short_side_px
        sized = image if short_side_px is None else resize_short_side(image, short_side_px)
        grey = cv2.cvtColor(sized, cv2.COLOR_RGB2GRAY)
        return cv2.GaussianBlur(grey, (0, 0), self._config.blur_px) if self._config.blur_px else grey

    def _speed(self, earlier: np.ndarray, later: np.ndarray, gap_s: float) -> float:
        magnitude_px = flow_magnitude(earlier, later, self._config.method)
        return magnitude_px if self._config.unit == "px" else magnitude_px / gap_s / earlier.shape[0]

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


def flow_magnitude(earlier: np.ndarray, later: np.ndarray, method: FlowMethod = "farneback") -> float:
    """Mean magnitude of the flow between two (h w) uint8 images, px."""
    flow = flow_field(earlier, later, method)
    return float(cv2.magnitude(flow[..., 0], flow[..., 1]).mean())


def flow_field(earlier: np.ndarray, later: np.ndarray, method: FlowMethod = "farneback") -> np.ndarray:
    """Dense flow between two (h w) uint8 images: (h w 2) float32, x and y displacement in px.

    Farneback (SCIA 2003), or DIS (Kroeger et al., ECCV 2016) with OpenCV's medium preset; DIS needs 16 px at least and
    sees none in smaller images.
    """
    if method == "farneback":
        return cv2.calcOpticalFlowFarneback(earlier, later, None, *_FARNEBACK)
    if min(earlier.shape) < _LEAST_DIS_PX:
        return np.zeros((*earlier.shape, 2), np.float32)
    return _dis().calc(earlier, later, None)


@cache
def _dis() -> Any:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def resize_short_side(image: np.ndarray, short_side_px: int) -> np.ndarray:
    """Scale (h w c) so that its short side is `short_side_px` and its long side at most eight times that."""
    height, width = image.shape[:2]
    scale = short_side_px / min(height, width)
    longest = 8 * short_side_px
    size = (min(longest, max(1, round(width * scale))), min(longest, max(1, round(height * scale))))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
