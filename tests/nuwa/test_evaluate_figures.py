"""Figures from features and values whose distances, drifts and floors are known."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from nuwa.evaluate.bootstrap import Bootstrap
from nuwa.evaluate.clip_measures import ClipMeasures, spread_positions
from nuwa.evaluate.figures import (
    NO_TIME,
    Along,
    Comparison,
    Figure,
    Measured,
    Titles,
    distance_figure,
    frechet_distances,
    mmd_distances,
    seam_figures,
    series_figure,
)
from nuwa.evaluate.seams import Seams

Floats = NDArray[np.float64]
TITLES = Titles("x", "x", "lower", "nobody")
TIMES = np.arange(5.0)


def measured(
    features: Floats | None = None, series: Mapping[str, Floats] | None = None, sources: NDArray[np.int64] | None = None
) -> Measured:
    count = len(features) if features is not None else len(next(iter((series or {}).values())))
    clips = [
        ClipMeasures(
            name=str(n),
            image=None if features is None else features[n],
            video=None,
            series={key: values[n] for key, values in (series or {}).items() if not np.isnan(values[n]).all()},
            seams=(),
        )
        for n in range(count)
    ]
    return Measured(clips, np.arange(count) if sources is None else sources)


def distance(real: Floats, generated: Floats, kind: str, along: Along = NO_TIME, least: int = 4) -> Figure:
    ours, theirs = measured(generated), measured(real)
    distances = (
        mmd_distances(real, generated, theirs.sources, ours.sources)
        if kind == "mmd"
        else frechet_distances(real, generated, pool=kind == "pooled")
    )
    return distance_figure(TITLES, distances, Comparison(theirs, ours, Bootstrap(draws=100), 8), along, least)


def draw(seed: int, count: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, 5, 3))


@pytest.mark.parametrize("kind", ["mean", "pooled", "mmd"])
def test_videos_as_good_as_real_ones_stand_at_the_floor(kind: str) -> None:
    found = distance(draw(0, 60), draw(1, 20), kind)
    assert found.floor is not None
    assert found.same_counts is not None
    assert found.floor.low is not None
    assert found.floor.high is not None
    width = found.floor.high - found.floor.low
    assert found.same_counts == pytest.approx(found.floor.value, abs=2 * width)
    assert found.counts == {
        "real": 60, "generated": 20, "positions": 1 if kind == "pooled" else 5,
        "floor_larger_part": 40, "floor_smaller_part": 20, "splits": 8,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["mean", "pooled", "mmd"])
def test_worse_videos_stand_above_the_floor(kind: str) -> None:
    found = distance(draw(0, 60), draw(1, 20) + 2.0, kind)
    assert found.floor is not None
    assert found.value.low is not None
    assert found.floor.high is not None
    assert found.value.low > found.floor.high


def test_the_mean_over_positions_is_the_figure() -> None:
    found = distance(draw(0, 30), draw(1, 20) + np.arange(5.0)[:, None], "mean", Along(TIMES))
    assert found.along is not None
    assert found.value.value == pytest.approx(found.along.mean(), rel=1e-12)
    assert found.along == pytest.approx(3 * np.arange(5.0) ** 2, abs=4.0)


@pytest.mark.parametrize("kind", ["mean", "mmd"])
def test_a_set_that_leaves_the_real_one_over_time_drifts_and_the_real_one_does_not(kind: str) -> None:
    found = distance(draw(0, 60), draw(1, 30) + 0.5 * TIMES[:, None], kind, Along(TIMES))
    assert found.drift_per_s is not None
    assert found.floor_drift_per_s is not None
    assert found.drift_per_s.low is not None
    assert found.floor_drift_per_s.low is not None
    assert found.floor_drift_per_s.high is not None
    assert found.drift_per_s.low > 0.0
    assert found.floor_drift_per_s.low < 0.0 < found.floor_drift_per_s.high


def test_too_few_real_videos_for_halves_give_no_floor() -> None:
    found = distance(draw(0, 6), draw(1, 20), "mean", least=4)
    assert (found.floor, found.same_counts) == (None, None)
    assert found.value.low is not None


def test_sources_decide_what_is_resampled() -> None:
    """Ten copies of each clip narrow no interval when they are known to come from one video."""
    features, other = draw(0, 10), draw(1, 10)
    alone = distance(features, other, "mmd")
    copies, of = np.repeat(features, 10, axis=0), np.repeat(np.arange(10), 10)
    ours, theirs = measured(other), measured(copies, sources=of)
    distances = mmd_distances(copies, other, of, ours.sources)
    found = distance_figure(TITLES, distances, Comparison(theirs, ours, Bootstrap(draws=100), 8), NO_TIME, 2)
    assert found.value.value == pytest.approx(alone.value.value, rel=1e-9)
    assert (found.value.low, found.value.high) == pytest.approx((alone.value.low, alone.value.high), rel=1e-9)


def test_values_along_clips_have_mean_control_floor_and_drift() -> None:
    times = np.arange(12.0)
    noise = np.random.default_rng(0).normal(size=(3, 20, 12))
    generated = measured(series={"q": noise[0] - times, "q control": noise[1] - 100.0})
    real = measured(series={"q": noise[2]})
    at = Along(np.array([1.5, 5.5, 9.5]), 4)
    found = series_figure(TITLES, "q", Comparison(real, generated, Bootstrap(draws=100), 3), at)
    assert found is not None
    assert found.floor is not None
    assert found.control is not None
    assert found.drift_per_s is not None
    assert found.floor_drift_per_s is not None
    assert found.along is not None
    assert found.value.value == pytest.approx((noise[0] - times).mean(), rel=1e-12)
    assert found.floor.value == pytest.approx(noise[2].mean(), rel=1e-12)
    assert found.control.value == pytest.approx(noise[1].mean() - 100.0, rel=1e-12)
    assert found.along == pytest.approx((noise[0] - times).mean(0).reshape(3, 4).mean(1), rel=1e-12)
    assert found.drift_per_s.value == pytest.approx(-1.0, abs=0.1)
    assert found.floor_drift_per_s.value == pytest.approx(0.0, abs=0.1)


def test_clips_without_a_value_do_not_count() -> None:
    values = np.array([[1.0, 3.0], [np.nan, np.nan], [5.0, np.nan]])
    sets = Comparison(measured(series={"other": values * 0}), measured(series={"q": values}), Bootstrap(draws=10), 3)
    found = series_figure(TITLES, "q", sets, NO_TIME)
    assert found is not None
    assert found.value.value == 3.5  # means of 2 and 5
    assert found.counts["generated"] == 2
    assert found.floor is None
    assert series_figure(TITLES, "nothing", sets, NO_TIME) is None


def test_seams_are_pooled_over_videos() -> None:
    """4 at keyframes over 2 elsewhere in generated videos, 1 over 1 in real ones."""

    def with_seams(at_keyframes: float, inside: float) -> Measured:
        seam = Seams(0, np.full(3, at_keyframes), np.full(9, inside))
        clips = [ClipMeasures(name=str(n), image=None, video=None, series={}, seams=(seam,)) for n in range(4)]
        return Measured(clips, np.arange(4))

    sets = Comparison(with_seams(1.0, 1.0), with_seams(4.0, 2.0), Bootstrap(draws=10), 3)
    (found,) = seam_figures(Titles("seams", "seams", "near 1", "pixels"), sets)
    assert found.name == "seams_level_0"
    assert found.value.value == 2.0
    assert found.floor is not None
    assert found.floor.value == 1.0


def test_positions_are_spread_over_the_whole_clip() -> None:
    assert spread_positions(226, 16).tolist() == [15 * n for n in range(16)]
    assert spread_positions(5, 16).tolist() == [0, 1, 2, 3, 4]
    assert spread_positions(9, 1).tolist() == [0]
