"""The bars of seams: none of blur, jitter and breaks at keyframes passes, and intervals know how alike frames are."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.seams import Measured, MeasureSeams, Video, bars, measure, over_stories, report
from nuwa.evaluate.seams import Seams

LENGTH, FRAMES, STORIES = 5, 17, 3


def story(number: int, shake: float = 0.0, keyframe_step: float = 0.0) -> Video:
    """A texture that sways, (17 24 24 3); `shake` grey levels to and fro in every frame, a step at keyframes."""
    texture = np.random.default_rng(number).uniform(100, 150, (24, 24, 3))
    time = np.arange(FRAMES)
    sway = 15 * np.sin(time + number) + shake * (-1.0) ** time + keyframe_step * (time % (LENGTH - 1) == 0)
    return np.clip(texture + sway[:, None, None, None], 0, 255).astype(np.uint8)


def measured(name: str, videos: list[Video]) -> Measured:
    return measure(name, [(video, ["a"] * FRAMES) for video in videos], LENGTH)


REAL = [story(number) for number in range(STORIES)]
BLURRED = [np.stack([cv2.GaussianBlur(frame, (5, 5), 1.0) for frame in video]) for video in REAL]
KINDS: dict[str, tuple[list[Video], list[bool]]] = {
    "as real": (REAL, [True, True, True]),
    "breaks at keyframes": ([story(n, keyframe_step=30.0) for n in range(STORIES)], [False, False, True]),
    "jitter": ([story(n, shake=30.0) for n in range(STORIES)], [True, False, True]),
    "jitter over breaks": ([story(n, shake=45.0, keyframe_step=30.0) for n in range(STORIES)], [True, False, True]),
    "blur": (BLURRED, [True, True, False]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_way_to_hide_a_seam_misses_its_bar(kind: str) -> None:
    """Order of the bars: ratio at keyframes, jitter, sharpness."""
    videos, holds = KINDS[kind]
    rows = bars(measured("real", REAL), measured(kind, videos))
    assert ["holds" in row[1] for row in rows] == holds


def levels(at_keyframes: NDArray[np.float64]) -> list[list[Seams]]:
    """Stories of 100 equal keyframes each over an interior of 1."""
    return [[Seams(0, np.full(100, value), np.ones(100))] for value in at_keyframes]


def test_intervals_draw_stories_and_not_their_frames() -> None:
    """Two stories of ratio 0 and 2: a quarter of the draws takes the one twice, a quarter the other: 0 to 2.

    Two hundred frames drawn one by one would leave 0.86 to 1.14.
    """
    kind = Measured("two stories", levels(np.array([0.0, 2.0])), np.ones(2))
    found = over_stories(lambda chosen: kind.of(chosen)[0].ratio, 2)
    assert found.value == 1.0
    assert found.low == pytest.approx(0.0, abs=0.1)
    assert found.high == pytest.approx(2.0, abs=0.1)


def test_stories_that_agree_have_no_interval_and_one_story_says_so() -> None:
    real = Measured("real", levels(np.ones(3)), np.ones(3))
    assert [row[2] for row in bars(real, real)] == ["1.00 to 1.00"] * 3
    alone = Measured("real", levels(np.ones(1)), np.ones(1))
    assert [row[2] for row in bars(alone, alone)] == ["one story"] * 3


def test_without_a_keyframe_to_judge_the_bar_is_missed() -> None:
    levels = [Seams(0, np.zeros(0), np.ones(4)), Seams(1, np.ones(4), np.ones(4))]
    nothing = Measured("no keyframe", [levels], np.ones(1))
    for kind in (nothing, Measured("turned", [levels[::-1]], np.ones(1))):
        assert "missed" in bars(nothing, kind)[0][1]


def test_the_report_has_every_kind_and_every_bar() -> None:
    kinds = [measured(name, REAL) for name in ("drawn", "through", "generated")]
    lines = report(MeasureSeams(stories=STORIES, frames=FRAMES), kinds)
    assert sum(line.startswith(("| drawn", "| through", "| generated |")) for line in lines) == 4
    assert sum("holds" in line for line in lines) == 3
