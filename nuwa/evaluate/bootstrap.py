"""How far a figure can be trusted: bootstrap intervals over videos, and disjoint halves of the real ones as a floor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuwa.hierarchy import NuwaError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; `low` and `high` are None where it was not asked for or cannot be had."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """`draws` resamples (0: no interval), the same for one seed in every run."""

    draws: int = 200
    seed: int = 0
    level: float = LEVEL

    def __post_init__(self) -> None:
        if self.draws < 0 or not 0.0 < self.level < 1.0:
            raise NuwaError(f"bootstrap of {self.draws} draws, level {self.level}; give 0 or more, and 0 < level < 1")

    def generator(self, purpose: str) -> np.random.Generator:
        """Draws for one purpose, independent of how many others there are (DESIGN.md, Randomness)."""
        return np.random.default_rng([self.seed, *purpose.encode()])

    def interval(self, value: float, replicates: Floats) -> Estimate:
        """`value` with the spread of its replicates, centred on it.

        A resample holds copies, so a Fréchet distance of resamples is larger than that of the videos themselves; plain
        percentiles would lie above the figure. Here: percentiles of the replicates minus their mean, so that the
        interval tells how the figure varies at this number of videos, and never its bias.
        """
        kept = replicates[np.isfinite(replicates)]
        if len(kept) < 2 or not np.isfinite(value):
            return Estimate(value)
        tail = (1.0 - self.level) / 2.0
        low, high = np.quantile(kept - kept.mean(), [tail, 1.0 - tail])
        return Estimate(value, float(value + low), float(value + high))


def resample(sources: Indices, rng: np.random.Generator) -> Indices:
    """Indices of videos after drawing as many sources as there are, with replacement; all videos of a source come.

    sources: (n,), the source that each video was cut from
    """
    found, of_clip = np.unique(sources, return_inverse=True)
    times_drawn = np.bincount(rng.integers(len(found), size=len(found)), minlength=len(found))
    return np.repeat(np.arange(len(sources)), times_drawn[of_clip])


def estimate_mean(values: Floats, sources: Indices, bootstrap: Bootstrap, purpose: str) -> Estimate:
    """Mean over videos with its interval; NaN values (nothing to measure in that video) do not count.

    values, sources: (n,)
    """
    known = np.isfinite(values)
    values, sources = values[known], sources[known]
    if len(values) == 0:
        return Estimate(float("nan"))
    return estimate(lambda chosen: float(values[chosen].mean()), sources, bootstrap, purpose)


def estimate(statistic: Callable[[Indices], float], sources: Indices, bootstrap: Bootstrap, purpose: str) -> Estimate:
    """`statistic` of all videos, with the interval of its values on resampled ones.

    statistic: takes indices of videos, with repetition
    """
    value = statistic(np.arange(len(sources)))
    if len(np.unique(sources)) < 2:
        return Estimate(value)
    rng = bootstrap.generator(purpose)
    return bootstrap.interval(value, np.array([statistic(resample(sources, rng)) for _ in range(bootstrap.draws)]))


def replicates_of_two(
    statistic: Callable[[Indices, Indices], Floats],
    first_sources: Indices,
    second_sources: Indices,
    bootstrap: Bootstrap,
    purpose: str,
) -> Floats:
    """A figure of two sets on resamples of both: (draws, …); no rows where a set has fewer than two sources."""
    rng = bootstrap.generator(purpose)
    enough = min(len(np.unique(first_sources)), len(np.unique(second_sources))) >= 2
    draws = range(bootstrap.draws if enough else 0)
    return np.array([statistic(resample(first_sources, rng), resample(second_sources, rng)) for _ in draws])


def halves(
    sources: Indices, wanted: int, splits: int, bootstrap: Bootstrap, purpose: str
) -> Iterator[tuple[Indices, Indices]]:
    """Disjoint parts of one set of videos, `splits` times at random: the larger part, and one of `wanted` videos or
    half of all, whichever is fewer. No source is in both.

    The small part stands in for generated videos, as many as there are, so that a biased figure has the same bias.
    """
    found = np.unique(sources)
    rng = bootstrap.generator(purpose)
    for _ in range(splits if len(found) > 1 else 0):
        order = rng.permutation(found)
        counts = np.cumsum([int((sources == source).sum()) for source in order])
        wanted_now = min(wanted, len(sources) // 2)
        taken = max(1, min(len(order) - 1, int(np.searchsorted(counts, wanted_now, side="right"))))
        small = np.isin(sources, order[:taken])
        yield np.flatnonzero(~small), np.flatnonzero(small)
