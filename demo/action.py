"""Read the hero's action from its track over the frames of one scene. Rules, nothing is trained.

What moves decides: to the side only is a walk, up and down only is a jump, both is a circle, and what stays but gets
larger or smaller grows or shrinks. A hero that only stays either turns or stands: its frames are laid over drawings of
its shape at every angle, and the angles that fit best either go round steadily or stay.

Each limit lies half-way between the action and a hero that does nothing of the kind (`demo/world.py`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from demo.probe import Reading, turned_patches

Floats = NDArray[np.float64]

LEAST_FRAMES = 8
"""A second at the model's 8 fps; circles take 2.4 s."""
LEAST_SEEN_FRAC = 0.5
EDGE_FRAC = 0.08
"""Part of the scene at either end that is not read: scenes may dissolve into each other."""
SIDEWAYS = 0.08
"""Standard deviation of x in frame heights: walks 0.162, circles 0.156."""
UPWARDS = 0.045
"""Of y: jumps 0.092, circles 0.156."""
GROWTH = 0.5
"""Change of the logarithm of the radius over the scene: 1.0 when it grows."""
ANGLES = 40
TURNS_PER_FRAME = np.array([sign * rate for sign in (1, -1) for rate in np.arange(0.02, 0.105, 0.01)])
"""Rates to try; spins go 0.4 turns a second, 0.05 a frame at 8 fps."""
TURNING_FITS = 0.9
"""A hero turns when turning drawings differ from it by less than this share of what standing ones do."""


def read_action(readings: Sequence[Reading], native_height: int) -> str | None:
    """The action of a scene from the readings of its frames; None where too few frames show a hero.

    native_height: of the frames in px, before they were read
    """
    edge = int(EDGE_FRAC * len(readings))
    at = [number for number in range(edge, len(readings) - edge) if readings[number].area is not None]
    if len(at) < max(LEAST_FRAMES // 2, LEAST_SEEN_FRAC * (len(readings) - 2 * edge)):
        return None
    seen = [readings[number] for number in at]
    x, y, area = (_smooth([getattr(r, name) for r in seen]) for name in ("x", "y", "area"))
    growth = 0.5 * _change(np.array(at), np.log(area)) * len(readings) / (at[-1] - at[0])
    moved = max(x.std() / (2 * SIDEWAYS), y.std() / (2 * UPWARDS))
    if abs(growth) > GROWTH and abs(growth) / (2 * GROWTH) > moved:
        return "grows" if growth > 0 else "shrinks"
    if x.std() > SIDEWAYS and y.std() > UPWARDS:
        return "circles"
    if y.std() > UPWARDS:
        return "jumps"
    if x.std() > SIDEWAYS:
        return "walks right" if _change(np.array(at), x) > 0 else "walks left"
    return "spins" if _turns(seen, at, native_height) else "stands still"


def _smooth(values: Sequence[float]) -> Floats:
    """Median of three neighbours, so that a frame misread does not count."""
    padded = np.pad(np.asarray(values, np.float64), 1, mode="edge")
    return np.asarray(np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0))


def _change(at: NDArray[np.int64], values: Floats) -> float:
    """From the first frame to the last, along the straight line that fits best."""
    slope = float(np.polyfit(at, values, 1)[0])
    return slope * float(at[-1] - at[0])


def _turns(seen: Sequence[Reading], at: Sequence[int], native_height: int) -> bool:
    """Whether drawings that turn steadily fit better than drawings at any one angle."""
    shape = commonest([reading.shape for reading in seen])
    assert shape is not None
    drawn = turned_patches(shape, native_height, ANGLES)  # a T T
    patches = np.stack([reading.patch for reading in seen if reading.patch is not None])  # t T T
    misfit = np.square(patches[:, None] - drawn).mean(axis=(2, 3))  # t a
    standing = misfit.mean(axis=0).min()
    phases = np.arange(ANGLES) / ANGLES
    turns = phases[:, None, None] + TURNS_PER_FRAME[:, None] * np.asarray(at, np.float64)  # phases rates t
    angle = np.round(turns * ANGLES).astype(np.int64) % ANGLES
    turning = misfit[np.arange(len(seen)), angle].mean(axis=2).min()
    return bool(turning < TURNING_FITS * standing)


def commonest(words: Sequence[str | None]) -> str | None:
    """The word that occurs most often, None aside; of several the first. None where there is no word."""
    known = [word for word in words if word is not None]
    return max(dict.fromkeys(known), key=known.count, default=None)
