"""Read the hero's action from its track over the frames of one scene. Rules, nothing is trained.

What moves decides: to the side only is a walk, up and down only is a jump, both is a circle, and what stays but gets
larger or smaller grows or shrinks. A hero that only stays either turns or stands: its frames are laid over drawings of
every shape at every angle, and the angles that fit best either go round steadily or stay.

Each limit lies half-way between the action and a hero that does nothing of the kind (`demo/world.py`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from demo import world
from demo.probe import ANGLES, Reading

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
TURNS_PER_FRAME = np.array([sign * rate for sign in (1, -1) for rate in np.arange(0.02, 0.105, 0.01)])
"""Rates to try; spins go 0.4 turns a second, 0.05 a frame at 8 fps."""
UPRIGHT = (-1, 0, 1)
"""Angles of the drawings that a hero that does not turn may have."""


def read_action(readings: Sequence[Reading]) -> str | None:
    """The action of a scene from the readings of its frames; None where too few frames show a hero."""
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
    return "spins" if _turns(seen, at) else "stands still"


def _smooth(values: Sequence[float]) -> Floats:
    """Median of three neighbours, so that a frame misread does not count."""
    padded = np.pad(np.asarray(values, np.float64), 1, mode="edge")
    return np.asarray(np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0))


def _change(at: NDArray[np.int64], values: Floats) -> float:
    """From the first frame to the last, along the straight line that fits best."""
    slope = float(np.polyfit(at, values, 1)[0])
    return slope * float(at[-1] - at[0])


def _turns(seen: Sequence[Reading], at: Sequence[int]) -> bool:
    """Whether drawings that turn steadily fit better than drawings at any one angle."""
    standing = _misfits(seen).mean(axis=0).min()
    return bool(_turning(seen, at).min() < standing)


def _turning(seen: Sequence[Reading], at: Sequence[int]) -> Floats:
    """Mean misfit of every shape as it turns, at the rate and from the angle that fit best, (shapes,)."""
    turns = np.arange(ANGLES)[:, None, None] / ANGLES + TURNS_PER_FRAME[:, None] * np.asarray(at, np.float64)
    angle = np.round(turns * ANGLES).astype(np.int64) % ANGLES  # angles rates t
    misfits = _misfits(seen)[np.arange(len(seen)), :, angle]  # angles rates t shapes
    return np.asarray(misfits.mean(axis=2).min(axis=(0, 1)), np.float64)


def _misfits(seen: Sequence[Reading]) -> Floats:
    """(t shapes angles)."""
    return np.stack([reading.misfits for reading in seen if reading.misfits is not None]).astype(np.float64)


def read_shape(readings: Sequence[Reading], action: str | None) -> str | None:
    """The shape that fits all frames of a scene best, upright unless its action is to spin; None without a hero."""
    at = [number for number, reading in enumerate(readings) if reading.misfits is not None]
    if not at:
        return None
    seen = [readings[number] for number in at]
    if action == "spins":
        return world.SHAPES[int(_turning(seen, at).argmin())]
    return world.SHAPES[int(_misfits(seen)[:, :, UPRIGHT].min(axis=2).mean(axis=0).argmin())]
