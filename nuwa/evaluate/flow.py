"""Optical flow between neighbouring frames, and what it is for here: warp error and flicker.

Flow is Dense Inverse Search (Kroeger et al. 2016, arXiv 1603.03590) or Farneback's (2003), both from OpenCV; papers
take FlowNet2 or RAFT, so figures compare within one method only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from nuwa.hierarchy import NuwaError

Frames = NDArray[np.uint8]
Field = NDArray[np.float32]
FlowMethod = Literal["dis", "farneback"]

SMALLEST_PX = 16
"""Side of the smallest frame that both methods read."""
STILL_PX = 0.5
"""A pixel that moves less than this between neighbours belongs to a static region."""


@dataclass(frozen=True)
class Step:
    """One step from a frame to the next.

    warp: mean squared difference of the matched pixels, summed over the channels (each in [0, 1]); NaN where nothing
    matches. matched_frac: share of pixels that pass the forward-backward check
    flicker: mean absolute difference in grey levels 0–255 of the static pixels; NaN where there are none.
    static_frac: their share. motion: mean length of the flow in frame heights
    """

    warp: float
    matched_frac: float
    flicker: float
    static_frac: float
    motion: float


@dataclass(frozen=True)
class FlowPair:
    """Two neighbouring frames (h w 3) uint8 and the flow between them (h w 2), (x, y) in pixels."""

    before: Frames
    after: Frames
    forward: Field
    backward: Field


def flow_pairs(frames: Frames, method: FlowMethod = "dis") -> Iterator[FlowPair]:
    """Flow both ways between all neighbours of frames (t h w 3) uint8 RGB, one pair at a time."""
    if min(frames.shape[1:3]) < SMALLEST_PX:
        height, width = frames.shape[1:3]
        raise NuwaError(f"frames of {width}x{height} px are too small for optical flow; give at least {SMALLEST_PX} px")
    flow = _flow_function(method)
    for before, after in pairwise(frames):
        first, second = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in (before, after))
        yield FlowPair(before, after, flow(first, second), flow(second, first))


def _farneback(before: Frames, after: Frames) -> Field:
    flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return np.asarray(flow, np.float32)


def _flow_function(method: FlowMethod) -> Callable[[Frames, Frames], Field]:
    if method == "farneback":
        return _farneback
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda before, after: np.asarray(
        dis.calc(before, after, np.zeros((*before.shape, 2), np.float32)), np.float32
    )


# Ruder et al. 2016 (arXiv 1604.08610): |w + ŵ|² > 0.01 (|w|² + |ŵ|²) + 0.5 is disoccluded.
def matched(forward: Field, backward: Field) -> NDArray[np.bool_]:
    """True where a pixel goes forward and comes back to about where it was, and stays inside the frame: (h w).

    Paper: also leaves out motion boundaries; here: not, because flow of cartoons is one boundary after another.
    """
    returned, inside = _sample(backward, forward)
    there, back = np.square(forward).sum(-1), np.square(returned).sum(-1)
    return np.asarray(inside & (np.square(forward + returned).sum(-1) <= 0.01 * (there + back) + 0.5))


def steps(frames: Frames, method: FlowMethod = "dis") -> list[Step]:
    """Warp error and flicker between all neighbours of frames (t h w 3) uint8 RGB: t − 1 of them.

    NuwaError for frames below 16 px.
    """
    return [_step(pair) for pair in flow_pairs(frames, method)]


def _step(pair: FlowPair) -> Step:
    warp, matched_frac = warp_error(pair)
    change, static_frac = flicker(pair)
    motion = float(np.linalg.norm(pair.forward, axis=-1).mean() / pair.before.shape[0])
    return Step(warp, matched_frac, change, static_frac, motion)


# Lai et al. 2018 (arXiv 1808.00449), E_warp: Σ M |V_t − V̂_{t+1}|² / Σ M.
def warp_error(pair: FlowPair) -> tuple[float, float]:
    """Mean squared difference of a frame and the next one warped back to it, where the two match; the share that does.

    A still or blurred video has little of it: read it beside the motion and the figure of real videos.
    """
    warped, _ = _sample(pair.after.astype(np.float32), pair.forward)
    mask = matched(pair.forward, pair.backward)
    squared = np.square((pair.before - warped) / 255.0).sum(-1)
    return (float(squared[mask].mean()) if mask.any() else float("nan")), float(mask.mean())


def flicker(pair: FlowPair) -> tuple[float, float]:
    """Mean absolute difference of neighbouring frames in static regions, in grey levels; the share of those regions.

    VBench (Huang et al. 2024, arXiv 2311.17982), "temporal flickering", takes it over whole frames of videos that were
    asked to stand still; here: over the pixels that stand still by their flow, so that any video can be judged.
    VBench's score is 1 − this / 255.
    """
    still = np.linalg.norm(pair.forward, axis=-1) < STILL_PX
    apart = np.abs(pair.before.astype(np.float64) - pair.after).mean(-1)
    return (float(apart[still].mean()) if still.any() else float("nan")), float(still.mean())


def _sample(image: Field, flow: Field) -> tuple[Field, NDArray[np.bool_]]:
    """`image` (h w c) read at each pixel + its flow, bilinear, and where that lies inside the frame (h w)."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    read = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(read, np.float32), np.asarray(inside)
