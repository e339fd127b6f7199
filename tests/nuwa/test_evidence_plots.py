"""Plots of benchmarks: every value where its axes say, intervals, and text that cannot break the file."""

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.plots import Line, Panel, draw, write_plot

SVG = "{http://www.w3.org/2000/svg}"


def panel(*lines: Line, **options: bool) -> Panel:
    return Panel(title="a & b", x_label="x", y_label="y", lines=lines, **options)


def circles(svg: str) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}circle")
    return [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in found]


def test_points_lie_in_proportion() -> None:
    (left, low), (middle, half), (right, high) = circles(draw([panel(Line("l", [0, 5, 10], [1, 2, 3]))]))
    assert middle - left == pytest.approx(right - middle, abs=0.11)
    assert low - half == pytest.approx(half - high, abs=0.11)
    assert high < low, "up is more"


def test_decades_are_equal_on_a_logarithmic_axis() -> None:
    places = circles(draw([panel(Line("l", [1, 10, 100], [0.1, 1, 10]), log_x=True, log_y=True)]))
    steps = [(b[0] - a[0], a[1] - b[1]) for a, b in itertools.pairwise(places)]
    assert steps[0] == pytest.approx(steps[1], abs=0.11)


def test_values_that_are_not_finite_are_left_out_and_intervals_are_drawn() -> None:
    svg = draw([panel(Line("l", [1, 2, 3], [1.0, float("nan"), 2.0], [0.5, None, None], [1.5, None, None]))])
    assert len(circles(svg)) == 2
    bars = [path for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("stroke-width") == "1.4"]
    assert len(bars) == 1


def test_one_point_names_and_panels(tmp_path: Path) -> None:
    one = panel(Line("<less> & more", [3], [0.0]))
    line = write_plot("p", "what it shows", [one, one], tmp_path / "RESULTS.md")
    assert line == "![what it shows](figures/p.svg)"
    root = ElementTree.parse(tmp_path / "figures" / "p.svg").getroot()
    assert len(root.findall(f"{SVG}g")) == 2
    assert "<less> & more" in {text.text for text in root.iter(f"{SVG}text")}
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["p.svg"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 8.0), (16.0, 1024.0), (0.0371, 0.0378)])
def test_axes_have_round_numbers_inside_their_range(low: float, high: float) -> None:
    texts = [
        float(text.text or "nan")
        for text in ElementTree.fromstring(draw([panel(Line("l", [low, high], [0, 1]))])).iter(f"{SVG}text")
        if text.get("text-anchor") == "middle" and text.get("y")
    ]
    assert 3 <= len(texts) <= 8
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in texts)
