"""Arms of an ablation: nothing is measured twice, other settings are refused, and the verdict follows the interval."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.arms import (
    ArmError,
    Measure,
    advantage,
    claim,
    marks,
    mean_of,
    measure_table,
    order_lines,
    remembered,
    verdict_of,
)
from nuwa.evaluate.bootstrap import Estimate

SOURCES = np.repeat(np.arange(10), 2)


def found(**shift: float) -> dict[str, dict[str, np.ndarray]]:
    """Values of arms on the same windows: what the windows have in common, and what an arm adds."""
    common = np.random.default_rng(0).normal(size=20)
    noise = np.random.default_rng(1)
    return {arm: {"loss": common + by + 0.01 * noise.normal(size=20)} for arm, by in shift.items()}


def measure(values: dict[str, dict[str, np.ndarray]], *order: str, lower_is_better: bool = True) -> Measure:
    return Measure(name="loss", of=mean_of(values, "loss"), order=order, lower_is_better=lower_is_better)


def test_a_measurement_is_made_once(tmp_path: Path) -> None:
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"psnr": np.array([1.5, np.nan]), "features": np.arange(6.0).reshape(2, 3)}

    first, second = (remembered(tmp_path / "arm" / "measured.json", make) for _ in range(2))
    assert len(calls) == 1
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert [path.name for path in (tmp_path / "arm").iterdir()] == ["measured.json"]


def test_a_measurement_that_failed_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        remembered(tmp_path / "measured.json", fail)
    assert not any(tmp_path.iterdir())


def test_a_folder_belongs_to_one_set_of_settings(tmp_path: Path) -> None:
    claim(tmp_path / "work", {"steps": 3, "dataset": Path("a"), "lengths": (1, 2)})
    claim(tmp_path / "work", {"steps": 3, "dataset": Path("a"), "lengths": (1, 2)})
    with pytest.raises(ArmError, match=r"holds results with steps 3, not 4; give another --work"):
        claim(tmp_path / "work", {"steps": 4, "dataset": Path("a"), "lengths": (1, 2)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ArmError, match="holds no benchmark"):
        claim(tmp_path / "other", {})


def test_arms_are_compared_on_the_same_windows() -> None:
    """Windows differ by a standard deviation of 1, arms by 0.05: unpaired, nothing could be said."""
    values = found(good=0.0, bad=0.05)
    apart = advantage(measure(values), "good", "bad", SOURCES)
    assert apart.value == pytest.approx(0.05, abs=0.01)
    assert verdict_of(apart) == "as in the paper"
    assert verdict_of(advantage(measure(values), "bad", "good", SOURCES)) == "**the other way round**"
    assert verdict_of(advantage(measure(values), "good", "good", SOURCES)) == "not told apart"


def test_an_interval_across_zero_tells_nothing() -> None:
    assert verdict_of(Estimate(0.1, -0.1, 0.3)) == "not told apart"
    assert verdict_of(Estimate(-0.1, -0.3, 0.1)) == "not told apart"
    assert verdict_of(Estimate(0.1)) == "no interval"


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        ({"a": 0.0, "b": 0.1, "c": 0.2}, "**reproduced**"),
        ({"a": 0.0, "b": 0.2, "c": 0.1}, "not reproduced (1 of 2"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, "not reproduced (0 of 2"),
    ],
)
def test_order_is_reproduced_when_all_neighbours_are(shift: dict[str, float], said: str) -> None:
    lines = order_lines([measure(found(**shift), "a", "b", "c")], SOURCES)
    assert len(lines) == 3
    assert said in lines[-1]


def test_higher_may_be_better() -> None:
    values = found(a=0.2, b=0.0)
    assert "**reproduced**" in order_lines([measure(values, "a", "b", lower_is_better=False)], SOURCES)[-1]
    rows = measure_table([measure(values, lower_is_better=False)], ["a", "b"], SOURCES)
    assert "higher is better" in rows[0]
    assert rows[2].startswith("| a |")


def test_a_measure_without_an_order_says_nothing() -> None:
    assert order_lines([measure(found(a=0.0))], SOURCES) == []


def test_marks_end_at_the_last_step() -> None:
    assert list(marks(160, 4)) == [40, 80, 120, 160]
    assert list(marks(2, 1)) == [2]
