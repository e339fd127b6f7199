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
class Warp:
    """How well flow explains each step from one frame to the next.

    error: (t−1,), mean squared difference of the matched pixels, summed over the channels (each in [0, 1]); NaN where
    nothing matches
    matched_frac: (t−1,), share of pixels that pass the forward-backward check
    motion: (t−1,), mean length of the flow in frame heights
    """

    error: NDArray[np.float64]
    matched_frac: NDArray[np.float64]
    motion: NDArray[np.float64]


@dataclass(frozen=True)
class Flicker:
    """Change where nothing moves.

    difference: (t−1,), mean absolute difference in grey levels 0–255; NaN where no pixel is static
    static_frac: (t−1,), share of static pixels
    """

    difference: NDArray[np.float64]
    static_frac: NDArray[np.float64]


@dataclass(frozen=True)
class FlowPair:
    """Two neighbouring frames (h w 3) uint8 and the flow between them (h w 2), (x, y) in pixels."""

    before: Frames
    after: Frames
    forward: Field
    backward: Field


def flow_pairs(frames: Frames, method: FlowMethod = "dis") -> Iterator[FlowPair]:
    """Flow both ways between all neighbours of frames (t h w 3) uint8 RGB. NuwaError for frames below 16 px."""
    if min(frames.shape[1:3]) < SMALLEST_PX:
        height, width = frames.shape[1:3]
        raise NuwaError(f"frames of {width}x{height} px are too small for optical flow; give at least {SMALLEST_PX} px")
    flow = _flow_function(method)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for (before, after), (first, second) in zip(pairwise(frames), pairwise(grey), strict=True):
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


# Ruder et al. 2016 (arXiv 1604.08610), Eq. 5: |w + ŵ|² > 0.01 (|w|² + |ŵ|²) + 0.5 is disoccluded.
def matched(forward: Field, backward: Field) -> NDArray[np.bool_]:
    """True where a pixel goes forward and comes back to about where it was, and stays inside the frame: (h w).

    Paper: also leaves out motion boundaries (Eq. 6); here: not, because flow of cartoons is one boundary after another.
    """
    returned, inside = _sample(backward, forward)
    there, back = np.square(forward).sum(-1), np.square(returned).sum(-1)
    return np.asarray(inside & (np.square(forward + returned).sum(-1) <= 0.01 * (there + back) + 0.5))


# Lai et al. 2018 (arXiv 1808.00449), Eq. 11: Σ M |V_t − V̂_{t+1}|² / Σ M.
def warp_error(pairs: list[FlowPair]) -> Warp:
    """Squared difference of each frame and the next one warped back to it, where the two match.

    A still or blurred video has little of it: read it beside `motion` and the figure of real videos.
    """
    errors, matches, motions = [], [], []
    for pair in pairs:
        warped, _ = _sample(pair.after.astype(np.float32), pair.forward)
        mask = matched(pair.forward, pair.backward)
        squared = np.square((pair.before - warped) / 255.0).sum(-1)
        errors.append(float(squared[mask].mean()) if mask.any() else np.nan)
        matches.append(float(mask.mean()))
        motions.append(float(np.linalg.norm(pair.forward, axis=-1).mean() / pair.before.shape[0]))
    return Warp(np.array(errors), np.array(matches), np.array(motions))


def flicker(pairs: list[FlowPair]) -> Flicker:
    """Mean absolute difference of neighbouring frames in static regions.

    VBench (Huang et al. 2024, arXiv 2311.17982), "temporal flickering", takes it over whole frames of videos that were
    asked to stand still; here: over the pixels that stand still by their flow, so that any video can be judged.
    VBench's score is 1 − this / 255.
    """
    differences, shares = [], []
    for pair in pairs:
        still = np.linalg.norm(pair.forward, axis=-1) < STILL_PX
        apart = np.abs(pair.before.astype(np.float64) - pair.after).mean(-1)
        differences.append(float(apart[still].mean()) if still.any() else np.nan)
        shares.append(float(still.mean()))
    return Flicker(np.array(differences), np.array(shares))


def _sample(image: Field, flow: Field) -> tuple[Field, NDArray[np.bool_]]:
    """`image` (h w c) read at each pixel + its flow, bilinear, and where that lies inside the frame (h w)."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    read = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(read, np.float32), np.asarray(inside)
