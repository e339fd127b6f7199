"""Sequential denoiser evaluations: the table behind the paper's times, and the calls that the recursion makes."""

import pytest

from nuwa.evaluate.denoiser_calls import (
    autoregressive_calls,
    hierarchical_calls,
    most_speed_up,
    windows_per_level,
)
from nuwa.generate.autoregressive import autoregressive_windows

TABLE = {  # frames: windows of autoregression at overlap 0, 1, 8; of each level; in all; least depth against overlap 1
    16: ((1, 1, 1), [1], 1, 1.0),
    226: ((15, 15, 28), [1, 15], 16, 7.5),
    256: ((16, 17, 31), [1, 2, 17], 20, 5.7),
    1024: ((64, 69, 127), [1, 5, 69], 75, 23.0),
    3376: ((211, 225, 421), [1, 15, 225], 241, 75.0),
}


@pytest.mark.parametrize("frames", TABLE)
def test_table_of_sequential_evaluations(frames: int) -> None:
    by_overlap, levels, total, speed_up = TABLE[frames]
    assert tuple(autoregressive_calls(frames, 16, overlap, 1) for overlap in (0, 1, 8)) == by_overlap
    assert tuple(len(autoregressive_windows(frames, 16, overlap)) for overlap in (0, 1, 8)) == by_overlap
    assert windows_per_level(frames, 16) == levels
    assert hierarchical_calls(frames, 16, 1) == total
    assert most_speed_up(frames, 16) == pytest.approx(speed_up, abs=0.05)


@pytest.mark.parametrize("frames", TABLE)
def test_unlimited_workers_take_steps_times_depth(frames: int) -> None:
    assert hierarchical_calls(frames, 16, 50, workers=225) == 50 * len(TABLE[frames][1])
    assert hierarchical_calls(frames, 16, 50, batch=225) == 50 * len(TABLE[frames][1])


def test_one_saturated_device_does_more_work_than_autoregression() -> None:
    """7 % more at 3376 frames: the gain is in what may run at once, not in how much there is to do."""
    assert hierarchical_calls(3376, 16, 1) / autoregressive_calls(3376, 16, 1, 1) == pytest.approx(1.07, abs=0.005)
