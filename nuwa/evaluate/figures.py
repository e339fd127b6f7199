"""Figures of generated videos from the measures of single clips, each with its interval and its floor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nuwa.evaluate.bootstrap import Bootstrap, Estimate, Indices, estimate, estimate_mean, halves, replicates_of_two
from nuwa.evaluate.clip_measures import ClipMeasures
from nuwa.evaluate.drift import block_means, drift_slope, mean_known, theil_sen
from nuwa.evaluate.frechet import frechet_at_positions, pooled_frechet
from nuwa.evaluate.mmd import Kernels, kernels
from nuwa.evaluate.seams import pooled

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the report.

    value: of the generated videos. floor: the same of real videos; for a distance, that between disjoint parts of the
    real set. same_counts: a distance of generated from real videos at the counts of the floor, so that the two have
    the same bias. control: with the prompts of other videos. chance: what the control of faultless videos would be.
    along: values along the video at `times_s`. drift_per_s, floor_drift_per_s: slopes of those
    """

    name: str
    label: str
    better: str
    judge: str
    value: Estimate
    floor: Estimate | None = None
    same_counts: float | None = None
    control: Estimate | None = None
    chance: Estimate | None = None
    along: Floats | None = None
    times_s: Floats | None = None
    drift_per_s: Estimate | None = None
    floor_drift_per_s: Estimate | None = None
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One set of clips and the source that each was cut from, (n,)."""

    clips: Sequence[ClipMeasures]
    sources: Indices

    def image(self) -> Floats:
        """(n p d) features of frames."""
        return np.stack([clip.image for clip in self.clips if clip.image is not None])

    def video(self) -> Floats:
        """(n blocks d) features of blocks."""
        return np.stack([clip.video for clip in self.clips if clip.video is not None])

    def series(self, name: str) -> Floats | None:
        """(n p) values along every clip, rows of NaN for clips without; None when no clip has any."""
        lengths = [len(clip.series[name]) for clip in self.clips if name in clip.series]
        if not lengths:
            return None
        missing = np.full(lengths[0], np.nan)
        return np.stack([clip.series.get(name, missing) for clip in self.clips])


@dataclass(frozen=True)
class Comparison:
    """Two sets of clips, and how figures of them are drawn again."""

    real: Measured
    generated: Measured
    bootstrap: Bootstrap
    splits: int


Distance = Callable[[Indices, Indices], Floats]
"""Indices of videos of two sets → the distance at every position, (p,), or of all together, (1,)."""


@dataclass(frozen=True)
class Distances:
    """One distance, between generated and real videos and among real ones."""

    real_generated: Distance
    real_real: Distance


def frechet_distances(real: Floats, generated: Floats, pool: bool) -> Distances:
    """Fréchet distance of features (n p d), (m p d), at every position or of all positions together."""

    def between(first: Floats, second: Floats) -> Floats:
        return np.array([pooled_frechet(first, second)]) if pool else frechet_at_positions(first, second)

    return Distances(lambda r, g: between(real[r], generated[g]), lambda r, s: between(real[r], real[s]))


def mmd_distances(real: Floats, generated: Floats, real_sources: Indices, generated_sources: Indices) -> Distances:
    """Unbiased MMD² at every position; kernels are computed once, resamples only weigh them."""
    both = kernels(real, generated, real_sources, generated_sources)
    inside = Kernels(both.within_first, both.within_first, both.within_first, real_sources, real_sources)

    def weights(indices: Indices, count: int) -> Indices:
        return np.bincount(indices, minlength=count)

    def between(kernel: Kernels, first: Indices, second: Indices) -> Floats:
        first_weights = weights(first, len(kernel.first_sources))
        return kernel.mmd(first_weights, weights(second, len(kernel.second_sources)))

    return Distances(lambda r, g: between(both, r, g), lambda r, s: between(inside, r, s))


@dataclass(frozen=True)
class Titles:
    """How a figure is called, which way is better, and what judged it."""

    name: str
    label: str
    better: str
    judge: str


@dataclass(frozen=True)
class Along:
    """Where values along a clip stand in time: means of `block` values at `times_s` (p,), 1 for the values as they are.

    `times_s` of one entry or none has no drift.
    """

    times_s: Floats
    block: int = 1

    def of(self, values: Floats) -> Floats:
        """(n t) → (n p)."""
        return block_means(values, self.block)[:, : len(self.times_s)]

    def times_of(self, values: Floats) -> Floats:
        """Times of what `of` gives; differences between frames have a block fewer at times."""
        return self.times_s[: self.of(values).shape[1]]


NO_TIME = Along(np.array([]))


def distance_figure(titles: Titles, distances: Distances, sets: Comparison, along: Along, least: int) -> Figure:
    """A distance with interval, floor and, where `along` says when its positions are, its drift.

    least: videos that either part of the floor's splits must have; with fewer there is no floor
    """
    real, generated, bootstrap = sets.real, sets.generated, sets.bootstrap
    series = distances.real_generated(np.arange(len(real.clips)), np.arange(len(generated.clips)))
    replicates = replicates_of_two(
        distances.real_generated, real.sources, generated.sources, bootstrap, f"{titles.name} resamples"
    )
    times = along.times_s
    floor = _floor(titles.name, distances, sets, times, least)
    counts = {"real": len(real.clips), "generated": len(generated.clips), "positions": len(series)}
    return Figure(
        **vars(titles),
        value=_mean_of_rows(series[None], replicates, bootstrap),
        floor=floor.value,
        same_counts=floor.same_counts,
        along=series if len(times) else None,
        times_s=times if len(times) else None,
        drift_per_s=_drift_of_rows(times, series[None], replicates, bootstrap),
        floor_drift_per_s=floor.drift,
        counts=counts | floor.counts,
    )


@dataclass(frozen=True)
class _Floor:
    value: Estimate | None = None
    drift: Estimate | None = None
    same_counts: float | None = None
    counts: dict[str, int] = field(default_factory=dict)


def _floor(name: str, distances: Distances, sets: Comparison, times: Floats, least: int) -> _Floor:
    """The distance among real videos, mean and range over random splits; and that of generated ones at equal counts."""
    purpose, bootstrap, count = f"{name} splits", sets.bootstrap, len(sets.generated.clips)
    found = [
        (large, small)
        for large, small in halves(sets.real.sources, count, sets.splits, bootstrap, purpose)
        if min(len(large), len(small)) >= least and np.isfinite(distances.real_real(large, small)).all()
    ]
    if not found:
        return _Floor()
    rng = bootstrap.generator(f"{purpose}, generated")
    rows = np.array([distances.real_real(large, small) for large, small in found])
    drawn = [rng.permutation(count)[: len(small)] for _, small in found]
    same = [distances.real_generated(large, some) for (large, _), some in zip(found, drawn, strict=True)]
    counts = {"floor_larger_part": len(found[0][0]), "floor_smaller_part": len(found[0][1]), "splits": len(found)}
    return _Floor(
        _mean_of_rows(rows, rows, bootstrap), _drift_of_rows(times, rows, rows, bootstrap), float(np.mean(same)), counts
    )


def _mean_of_rows(rows: Floats, replicates: Floats, bootstrap: Bootstrap) -> Estimate:
    """Mean over positions (and over rows, if there are several), with the spread of the replicates' means."""
    spread = replicates.mean(axis=1) if replicates.ndim == 2 else np.array([])
    return bootstrap.interval(float(rows.mean()), spread)


def _drift_of_rows(times: Floats, rows: Floats, replicates: Floats, bootstrap: Bootstrap) -> Estimate | None:
    if len(times) < 2:
        return None
    slopes = np.array([theil_sen(times, row) for row in replicates])
    return bootstrap.interval(float(np.mean([theil_sen(times, row) for row in rows])), slopes)


def series_figure(titles: Titles, key: str, sets: Comparison, along: Along) -> Figure | None:
    """Mean of a value along the clips: over frames, then over videos; the floor is that of real videos.

    None when nothing was measured.
    """
    real, generated, bootstrap = sets.real, sets.generated, sets.bootstrap
    values, theirs, control = generated.series(key), real.series(key), generated.series(f"{key} control")
    if values is None or not np.isfinite(values).any():
        return None
    times = along.times_of(values)
    series = mean_known(along.of(values)) if len(times) else None
    return Figure(
        **vars(titles),
        value=_mean_series(values, generated.sources, bootstrap, key),
        floor=None if theirs is None else _mean_series(theirs, real.sources, bootstrap, f"{key} real"),
        control=None if control is None else _mean_series(control, generated.sources, bootstrap, f"{key} control"),
        along=series,
        times_s=None if series is None else times,
        drift_per_s=_drift(values, generated, along, bootstrap, key),
        floor_drift_per_s=None if theirs is None else _drift(theirs, real, along, bootstrap, f"{key} real"),
        counts={"real": len(real.clips), "generated": int(np.isfinite(values).any(axis=1).sum())},
    )


def _drift(values: Floats, measured: Measured, along: Along, bootstrap: Bootstrap, purpose: str) -> Estimate | None:
    times = along.times_of(values)
    if len(times) < 2:
        return None
    return drift_slope(along.of(values), times, measured.sources, bootstrap, f"{purpose} drift")


def _mean_series(values: Floats, sources: Indices, bootstrap: Bootstrap, purpose: str) -> Estimate:
    return estimate_mean(mean_known(values, axis=1), sources, bootstrap, purpose)


def seam_figures(titles: Titles, sets: Comparison) -> list[Figure]:
    """Change at keyframes over change elsewhere, one figure per level but the deepest."""
    return [
        Figure(
            name=f"{titles.name}_level_{level}",
            label=f"{titles.label}, level {level}",
            better=titles.better,
            judge=titles.judge,
            value=_seam_ratio(sets.generated, level, sets.bootstrap, "generated"),
            floor=_seam_ratio(sets.real, level, sets.bootstrap, "real"),
            counts={"real": len(sets.real.clips), "generated": len(sets.generated.clips)},
        )
        for level in range(len(sets.generated.clips[0].seams))
    ]


def _seam_ratio(measured: Measured, level: int, bootstrap: Bootstrap, purpose: str) -> Estimate:
    def ratio(chosen: Indices) -> float:
        return pooled([measured.clips[at].seams for at in chosen])[level].ratio

    return estimate(ratio, measured.sources, bootstrap, f"seams {level} {purpose}")
