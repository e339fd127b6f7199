"""Does quality fade over a long video? A robust slope of a quality per block against time.

Paper: a figure per length of video (Table 1); here: the slope within videos of one length, because a mean over a long
video hides where it fails.
"""

import numpy as np
from numpy.typing import NDArray

from nuwa.evaluate.bootstrap import Bootstrap, Estimate, estimate
from nuwa.hierarchy import NuwaError

Floats = NDArray[np.float64]


def theil_sen(times: Floats, values: Floats) -> float:
    """Median of the slopes of all pairs of points (Sen 1968): up to 29 % of the values may be wild.

    times, values: (p,); NaN values do not count. NaN when fewer than 2 times are left.
    """
    known = np.isfinite(values)
    times, values = times[known], values[known]
    first, second = np.triu_indices(len(times), 1)
    apart = times[second] - times[first]
    slopes = (values[second] - values[first])[apart != 0] / apart[apart != 0]
    return float(np.median(slopes)) if len(slopes) else float("nan")


def drift_slope(
    values: Floats, times: Floats, sources: NDArray[np.int64], bootstrap: Bootstrap, purpose: str = "drift"
) -> Estimate:
    """Slope of the mean quality per block against time, with its interval over videos; per unit of `times`.

    values: (n p), a quality of every block of every video, NaN where it has none
    times: (p,), middles of the blocks
    sources: (n,), see `nuwa.evaluate.bootstrap.resample`
    """
    if values.ndim != 2 or values.shape[1] != len(times):
        raise NuwaError(f"values of shape {values.shape} for {len(times)} blocks; give (videos, blocks)")
    return estimate(lambda chosen: theil_sen(times, mean_known(values[chosen])), sources, bootstrap, purpose)


def block_means(values: Floats, block: int) -> Floats:
    """Means over blocks of `block` frames: (… t) → (… t // block); frames past the last whole block do not count.

    NaN frames do not count; a block of none but them is NaN.
    """
    count = values.shape[-1] // block
    return mean_known(values[..., : count * block].reshape(*values.shape[:-1], count, block), axis=-1)


def block_times(num_frames: int, block: int, fps: float) -> Floats:
    """Middles of the whole blocks in seconds, (num_frames // block,)."""
    return np.asarray((np.arange(num_frames // block) + 0.5) * block / fps, np.float64)


def mean_known(values: Floats, axis: int = 0) -> Floats:
    """Mean of what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=axis, dtype=np.float64), known.sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.float64)
