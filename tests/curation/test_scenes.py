"""Cuts on drawn frames with known truth; PySceneDetect's own lists on real films are in test_media.py."""

from collections.abc import Iterator

import numpy as np
import pytest

from curation.config import CutDetectorConfig, SceneConfig
from curation.cut_rules import mixture_share
from curation.stages.scenes import Cut, find_cuts

EVERYTHING = SceneConfig(fade_threshold=12.0, white_threshold=243.0, dissolve_window_s=0.64)


def still(seed: int, frames: int) -> list[np.ndarray]:
    """`frames` copies of a random picture of coloured blocks, (64 64 3) uint8."""
    blocks = np.random.default_rng(seed).integers(40, 255, (4, 4, 3), dtype=np.uint8)
    return [blocks.repeat(16, 0).repeat(16, 1)] * frames


def fade(before: list[np.ndarray], after: list[np.ndarray], half: int) -> list[np.ndarray]:
    """Join through black, `half` frames down and `half` up."""
    levels = (np.arange(half) + 0.5) / half
    down = [(level * before[-1]).astype(np.uint8) for level in levels[::-1]]
    return before[:-half] + down + [(level * after[0]).astype(np.uint8) for level in levels] + after[half:]


def dissolve(before: list[np.ndarray], after: list[np.ndarray], length: int) -> list[np.ndarray]:
    """Join by mixing over `length` frames, the middle where `before` would have ended."""
    weights = (np.arange(length) + 0.5) / length
    mixed = [((1 - w) * before[-1] + w * after[0]).astype(np.uint8) for w in weights]
    return before[: -length // 2] + mixed + after[length // 2 :]


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_hard_cuts_at_the_first_frame_of_the_new_scene(detector: str) -> None:
    frames = still(0, 30) + still(1, 40) + still(2, 35)
    kind = CutDetectorConfig(detector="content", threshold=27.0) if detector == "content" else CutDetectorConfig()
    assert find_cuts(frames, SceneConfig(detectors=(kind,))) == [Cut(30, "hard"), Cut(70, "hard")]


def test_transitions_are_told_apart() -> None:
    frames = fade(still(0, 50), still(1, 50), 8)
    frames = dissolve(frames, still(2, 50), 12)
    frames += still(3, 40)
    cuts = find_cuts(frames, EVERYTHING)
    assert [cut.kind for cut in cuts] == ["fade", "dissolve", "hard"]
    assert np.abs(np.array([cut.frame for cut in cuts]) - [50, 100, 150]).max() <= 1


def test_one_picture_has_no_cut_also_when_it_fades_and_when_it_is_noisy() -> None:
    rng = np.random.default_rng(0)
    noisy = [np.clip(f + rng.normal(0, 25, f.shape), 0, 255).astype(np.uint8) for f in still(0, 80)]
    assert find_cuts(noisy, EVERYTHING) == []
    dimmed = [(f * (1 - k / 100)).astype(np.uint8) for k, f in enumerate(still(0, 60))]
    assert find_cuts(dimmed, EVERYTHING) == []


def test_a_moving_picture_is_no_dissolve() -> None:
    wide = np.random.default_rng(0).integers(0, 255, (8, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    assert find_cuts([np.ascontiguousarray(wide[:, 2 * k : 2 * k + 64]) for k in range(100)], EVERYTHING) == []


def test_mixture_share_is_one_for_a_mean_and_zero_for_a_cut() -> None:
    before, after = (frame.astype(np.float32) for frame in (still(0, 1)[0], still(1, 1)[0]))
    assert mixture_share(before, (before + after) / 2, after) == pytest.approx(1.0)
    assert mixture_share(before, before, after) == 0.0
    assert mixture_share(before, before * 0.75, before * 0.5) == 0.0


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_short_and_tiny_videos(count: int) -> None:
    frames: Iterator[np.ndarray] = (np.full((1, 1, 3), 7, np.uint8) for _ in range(count))
    assert find_cuts(frames, EVERYTHING) == []
