"""What the videos allow, at the very counts where it changes; every remedy does what it promises."""

import re
from dataclasses import replace

import pytest

from nuwa.evaluate.availability import Inputs, reasons_against
from nuwa.evaluate.config import METRICS, Metric
from nuwa.evaluate.decoding import Format

PLENTY = Inputs(
    real=500,
    real_sources=500,
    generated=400,
    prompts=True,
    windows=(16, 2),
    wanted=Format(height=32, width=32, fps=8.0, frames=64),
    positions=16,
    block=16,
    feature_width=None,
    image_width=128,
    video_width=32,
    shortest_block=4,
)


def reason(name: Metric, inputs: Inputs) -> str:
    return reasons_against([name], inputs).get(name, "")


def test_with_plenty_nothing_stands_against_anything() -> None:
    assert reasons_against(METRICS, PLENTY) == {}


@pytest.mark.parametrize(
    ("name", "fewest"), [("avg_fid", 129), ("fid", 9), ("b_fvd", 33), ("fvd", 9), ("avg_kid", 2), ("b_kvd", 2)]
)
def test_a_covariance_needs_more_features_than_they_are_wide(name: Metric, fewest: int) -> None:
    """128 numbers of a frame, 16 frames; 32 numbers of a block, 4 blocks."""
    for few in ("real", "generated"):
        assert reason(name, replace(PLENTY, **{few: fewest})) == ""
        if fewest > 2:
            assert f"give at least {fewest} of each" in reason(name, replace(PLENTY, **{few: fewest - 1}))


@pytest.mark.parametrize("name", ["avg_fid", "fid", "b_fvd", "fvd"])
def test_the_remedies_help(name: Metric) -> None:
    few = replace(PLENTY, generated=3)
    said = reason(name, few)
    clips, width, other = re.search(r"at least (\d+) of .*--feature-width (\d+) or less, or take (\w+),", said).groups()  # type: ignore[union-attr]
    assert reason(name, replace(few, generated=int(clips))) == ""
    assert reason(name, replace(few, generated=int(clips) - 1)) != ""
    assert reason(name, replace(few, feature_width=int(width))) == ""
    assert reason(name, replace(few, feature_width=int(width) + 1)) != ""
    assert reason(other, few) == ""


@pytest.mark.parametrize("name", ["avg_fid", "fid", "avg_kid", "b_fvd", "fvd", "b_kvd"])
def test_one_video_is_no_set(name: Metric) -> None:
    assert "at least 2 of each" in reason(name, replace(PLENTY, generated=1))
    assert "at least 2 of each" in reason(name, replace(PLENTY, real_sources=1))


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("b_fvd", {"block": 65}, "clips of 64 frames hold no block of 65"),
        ("b_kvd", {"block": 3}, "give --block 4"),
        ("clipsim", {"prompts": False}, "no generated video has prompts"),
        ("seams", {"windows": None}, "the windows are not known"),
        ("seams", {"wanted": replace(PLENTY.wanted, frames=2)}, "give --frames 3"),
        ("warp", {"wanted": replace(PLENTY.wanted, height=15)}, "too small for optical flow"),
        ("flicker", {"wanted": replace(PLENTY.wanted, width=15)}, "too small for optical flow"),
    ],
)
def test_what_stands_against_a_figure_is_said(name: Metric, change: dict[str, object], line: str) -> None:
    assert line in reason(name, replace(PLENTY, **change))  # type: ignore[arg-type]
