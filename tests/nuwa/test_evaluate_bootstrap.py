"""Intervals cover what they should, are the same for one seed, and splits of the real videos share no source."""

import numpy as np
import pytest

from nuwa.evaluate.bootstrap import (
    Bootstrap,
    estimate,
    estimate_mean,
    halves,
    replicates_of_two,
    resample,
)
from nuwa.hierarchy import NuwaError


def test_interval_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    rng, bootstrap = np.random.default_rng(0), Bootstrap(draws=100, level=0.9)
    hits = 0
    for trial in range(200):
        found = estimate_mean(rng.normal(size=30), np.arange(30), bootstrap, f"trial {trial}")
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.0 <= found.high
    assert 0.83 <= hits / 200 <= 0.94  # a percentile interval of 30 values is a little narrow


def test_one_seed_and_purpose_always_give_the_same_interval() -> None:
    values, sources = np.random.default_rng(1).normal(size=20), np.arange(20)
    same = [estimate_mean(values, sources, Bootstrap(draws=50, seed=3), "a") for _ in range(2)]
    assert same[0] == same[1]
    assert estimate_mean(values, sources, Bootstrap(draws=50, seed=4), "a") != same[0]
    assert estimate_mean(values, sources, Bootstrap(draws=50, seed=3), "b") != same[0]


def test_interval_lies_around_the_figure_also_where_resamples_are_biased() -> None:
    """The largest value of a resample is never above that of the sample; the interval still holds the figure."""
    values = np.random.default_rng(2).normal(size=25)
    found = estimate(lambda chosen: float(values[chosen].max()), np.arange(25), Bootstrap(draws=200), "max")
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_clips_of_one_source_are_drawn_together() -> None:
    sources = np.array([0, 0, 0, 1, 2, 2])
    rng = np.random.default_rng(3)
    for _ in range(20):
        drawn = np.bincount(resample(sources, rng), minlength=6)
        assert drawn[0] == drawn[1] == drawn[2]
        assert drawn[4] == drawn[5]
        assert drawn[0] + drawn[3] + drawn[4] == 3


def test_nothing_to_resample_gives_no_interval() -> None:
    values = np.array([1.0, 3.0])
    one_source = estimate_mean(values, np.zeros(2, np.int64), Bootstrap(), "x")
    assert (one_source.value, one_source.low) == (2.0, None)
    assert estimate_mean(values, np.arange(2), Bootstrap(draws=0), "x").low is None
    assert estimate_mean(np.array([1.0, np.nan]), np.arange(2), Bootstrap(), "x").value == 1.0
    assert np.isnan(estimate_mean(np.array([np.nan]), np.arange(1), Bootstrap(), "x").value)
    assert replicates_of_two(lambda a, b: a + b, np.zeros(3, np.int64), np.arange(3), Bootstrap(), "x").size == 0


def test_halves_are_disjoint_in_sources_and_as_small_as_the_generated_set() -> None:
    sources = np.repeat(np.arange(10), 2)
    for wanted, expected in ((4, 4), (100, 10)):
        splits = list(halves(sources, wanted, 5, Bootstrap(), "x"))
        assert len(splits) == 5
        for large, small in splits:
            assert (len(small), len(large)) == (expected, 20 - expected)
            assert not set(sources[large]) & set(sources[small])
    assert len({tuple(small) for _, small in splits}) > 1
    assert not list(halves(np.zeros(4, np.int64), 2, 5, Bootstrap(), "x"))


def test_wrong_settings_are_told() -> None:
    with pytest.raises(NuwaError, match="-1 draws"):
        Bootstrap(draws=-1)
    with pytest.raises(NuwaError, match="level 1"):
        Bootstrap(level=1.0)
