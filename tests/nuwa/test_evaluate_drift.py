"""Slopes over blocks: exact on lines, deaf to wild values, with an interval over videos."""

import numpy as np
import pytest

from nuwa.evaluate.bootstrap import Bootstrap
from nuwa.evaluate.drift import block_means, block_times, drift_slope, theil_sen
from nuwa.hierarchy import NuwaError


def test_slope_of_a_line_is_exact_and_wild_values_do_not_move_it() -> None:
    times = np.arange(20.0)
    values = 3.0 - 0.25 * times
    assert theil_sen(times, values) == pytest.approx(-0.25, abs=1e-12)
    values[[2, 9, 17]] = 1e6
    assert theil_sen(times, values) == pytest.approx(-0.25, abs=1e-12)
    values[5] = np.nan
    assert theil_sen(times, values) == pytest.approx(-0.25, abs=1e-12)
    assert theil_sen(10.0 * times, values) == pytest.approx(-0.025, abs=1e-12)
    assert np.isnan(theil_sen(times[:1], values[:1]))


def test_interval_tells_a_drift_from_none() -> None:
    rng, times, sources = np.random.default_rng(0), np.arange(14.0), np.arange(24)
    noise = rng.normal(size=(24, 14))
    steady = drift_slope(noise, times, sources, Bootstrap(draws=200))
    fading = drift_slope(noise - 0.3 * times, times, sources, Bootstrap(draws=200))
    assert steady.low is not None
    assert steady.high is not None
    assert fading.high is not None
    assert steady.low < 0.0 < steady.high
    assert fading.high < 0.0
    assert fading.value == pytest.approx(steady.value - 0.3, abs=1e-12)


def test_blocks() -> None:
    assert block_means(np.arange(7.0), 3) == pytest.approx([1.0, 4.0])
    assert block_means(np.array([[1.0, np.nan, np.nan, np.nan]]), 2)[0, 0] == 1.0
    assert np.isnan(block_means(np.array([[1.0, np.nan, np.nan, np.nan]]), 2)[0, 1])
    assert block_times(40, 16, 8.0) == pytest.approx([1.0, 3.0])


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(NuwaError, match="5 blocks"):
        drift_slope(np.zeros((3, 4)), np.arange(5.0), np.arange(3), Bootstrap())
