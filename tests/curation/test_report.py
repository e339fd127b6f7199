"""The report's figures against a dataset whose figures are known, and its charts against their data."""

import base64
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from curation import report
from curation.charts import Bound, Curve, histogram, line_chart
from curation.config import AxisRule
from curation.config_error import CurationError
from curation.dataset import Dataset, open_dataset
from curation.page import Section, picture, render, sheet
from tests.curation import small_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(small_dataset.build(tmp_path_factory.mktemp("report")))


def bars(html: str) -> dict[str, int]:
    """Name → figure of every bar row."""
    return {name: int(count) for name, count in re.findall(r"<span>(\w[\w ]*)</span><div.*?</div><b>(\d+)</b>", html)}


def test_headline_counts_what_is_in_the_tables(dataset: Dataset) -> None:
    expected = [
        ("4", "videos"),
        ("6", "clips"),
        ("4", "clips kept"),
        ("2", "runs for training"),
        ("0.1", "minutes of runs"),
    ]
    assert report.headline(dataset) == expected


def test_funnel_reasons_statuses_and_errors(dataset: Dataset) -> None:
    funnel = report.sections(dataset)[0].body
    assert bars(funnel) == {
        "videos found": 4,
        "videos decoded": 2,
        "clips cut": 6,
        "clips kept": 4,
        "clips in runs": 6,
        "low_motion_score": 2,
        "duplicate": 1,
        "low_aesthetic_score": 1,
        "ok": 2,
        "failed": 1,
    }
    assert "&lt;i&gt;no&lt;/i&gt; header" in funnel
    assert "<i>no</i>" not in funnel


def test_thresholds_are_those_of_the_selection(dataset: Dataset) -> None:
    scores = dataset.clips["aesthetic_score"].to_numpy(float)
    (line,) = report.bound_lines(AxisRule(axis="aesthetic_score", drop_lowest_frac=0.2), scores)
    assert (scores < line.value).sum() == 1
    assert line.is_minimum
    both = report.bound_lines(AxisRule(axis="ocr_area_ratio", minimum=0.0, maximum=0.07), scores)
    assert [bound.value for bound in both] == [0.0, 0.07]
    assert report.bound_lines(AxisRule(axis="motion_score"), scores) == []


def test_histograms_of_all_scores_and_gallery_of_both_kinds(dataset: Dataset) -> None:
    parts = {section.anchor: section for section in report.sections(dataset)}
    assert list(parts) == ["funnel", "scores", "thresholds", "duplicates", "files", "clips"]
    scores, clips = parts["scores"], parts["clips"]
    assert scores.body.count("<svg") == len(report.SCORES)
    assert clips.body.count("<article") == 6
    assert clips.body.count("data:image/jpeg;base64,") == 6
    assert clips.body.count("a &lt;square&gt; moves") == 4
    assert clips.body.count("no caption") == 2
    kept, rejected = clips.body.split("Rejected")
    assert kept.count("<article") == 4
    assert rejected.count("chip why") == 4
    assert report.sections(dataset, most_clips=1)[-1].body.count("<article") == 2


def test_a_source_that_is_gone_leaves_a_line_in_its_place(tmp_path: Path) -> None:
    dataset = open_dataset(small_dataset.build(tmp_path))
    (tmp_path / "film0.mp4").unlink()
    parts = {section.anchor: section.body for section in report.sections(dataset)}
    assert parts["clips"].count("no picture:") == 3
    assert parts["clips"].count("<img") == 3
    assert parts["thresholds"].count("no picture:") > 0
    assert parts["duplicates"].count("no picture:") == 1 + 2 * 2  # an original, and two pairs of that film


@pytest.mark.parametrize("clips", ["undecided", "none"])
def test_a_dataset_that_is_still_growing(dataset: Dataset, clips: str) -> None:
    tables = {name: getattr(dataset, name) for name in ("videos", "clips", "runs", "errors")}
    undecided = tables["clips"].assign(keep=None, filter_reasons=None, dup_of=None, file_name=None)
    tables |= {"clips": undecided if clips == "undecided" else undecided.iloc[:0], "runs": tables["runs"].iloc[:0]}
    growing = SimpleNamespace(config=dataset.config, **tables)
    assert report.headline(growing)[2] == ("0", "clips kept")
    parts = report.sections(growing)
    assert [part.anchor for part in parts] == ["funnel", "scores", "thresholds", "duplicates", "clips"]
    assert "nan" not in "".join(part.body.partition("base64")[0] for part in parts)


def test_histogram_bars_add_up_and_are_coloured_by_the_bound() -> None:
    values = [0.0, 0.1, 0.2, 0.9, 1.0, float("nan")]
    svg = histogram(values, [Bound(0.15, True, "min 0.15")], "score", num_bins=10)
    counts = {kind: sum(map(int, re.findall(rf'bar {kind}".*?: (\d+) clips', svg))) for kind in ("good", "bad")}
    assert counts == {"good": 3, "bad": 2}
    assert "min 0.15" in svg


@pytest.mark.parametrize("values", [[], [float("nan")], [3.0], [0.0, 0.0]])
def test_charts_of_little_or_nothing(values: list[float]) -> None:
    assert "nan" not in histogram(values, [], "score")
    assert "nan" not in line_chart([Curve("loss", np.arange(len(values)) * 1.0, np.nan_to_num(values))], "loss")


def test_line_chart_draws_every_curve_within_its_frame() -> None:
    steps = np.arange(1, 2001) * 1.0
    svg = line_chart([Curve("a", steps, 1 / steps), Curve("b", steps, 2 / steps)], "loss", log_y=True)
    points = [
        tuple(map(float, point.split(","))) for line in re.findall(r'points="(.*?)"', svg) for point in line.split()
    ]
    assert svg.count("<polyline") == 4
    assert all(0 <= x <= 360 and 0 <= y <= 190 for x, y in points)


def test_page_is_self_contained() -> None:
    page = render(
        "T & t", "s", [("1", "x")], [Section("a", "A", "n", f'<img src="{picture(np.zeros((2, 2, 3), np.uint8))}">')]
    )
    assert "T &amp; t" in page
    assert "default-src 'none'" in page
    assert all(target.startswith(("data:", "#")) for target in re.findall(r'(?:src|href)="(.*?)"', page))
    assert "url(" not in page


@pytest.mark.parametrize("sizes", [[(48, 64)] * 4, [(48, 64)], [(48, 64), (96, 64), (10, 10)], [(200, 20)] * 4])
def test_a_sheet_is_two_by_two_whatever_the_frames(sizes: list[tuple[int, int]]) -> None:
    shades = [np.full((*size, 3), 60 * n, np.uint8) for n, size in enumerate(sizes)]
    content = base64.b64decode(sheet(shades, 24).partition(",")[2])
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = image.shape[0] // 2, image.shape[1] // 2
    assert height == 24
    assert width == max(1, round(sizes[0][1] * 24 / sizes[0][0]))
    corners = [image[row * height + 12, column * width + width // 2] for row in (0, 1) for column in (0, 1)]
    expected = [60 * min(n, len(sizes) - 1) for n in range(4)]
    assert np.abs(np.array(corners, int) - expected).max() <= 12


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CurationError, match="no dataset"):
        open_dataset(tmp_path)
