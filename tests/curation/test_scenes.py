"""Cuts on drawn frames with known truth; PySceneDetect's own lists on real films are in test_analyse_media.py."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from curation.config_error import CurationError
from curation.cut_rules import mixture_share
from curation.decode_config import CutDetectorConfig, SceneConfig
from curation.stages.scenes import Cut, SceneDetector, find_cuts

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


CASCADE = (
    CutDetectorConfig(),
    CutDetectorConfig(fps=8.0, threshold=2.5),
    CutDetectorConfig(fps=2.0, threshold=2.0),
)


def wipe(before: list[np.ndarray], after: list[np.ndarray], length: int) -> list[np.ndarray]:
    """Join by uncovering `after` from the left over `length` frames, the middle where `before` would have ended."""
    mixed = []
    for k in range(length):
        frame = before[-1].copy()
        frame[:, : round(64 * (k + 0.5) / length)] = after[0][:, : round(64 * (k + 0.5) / length)]
        mixed.append(frame)
    return before[: -length // 2] + mixed + after[length // 2 :]


@pytest.mark.parametrize("length", [6, 12])
def test_lower_rates_see_wipes_that_the_native_rate_misses(length: int) -> None:
    frames = wipe(still(0, 75), still(1, 75), length)
    assert find_cuts(frames, SceneConfig()) == []
    (cut,) = find_cuts(frames, SceneConfig(detectors=CASCADE))
    assert cut.kind == "dissolve"
    assert abs(cut.frame - 75) <= length // 2


def test_lower_rates_add_nothing_to_what_is_known() -> None:
    frames = fade(still(0, 60), still(1, 60), 8)
    frames = dissolve(frames, still(2, 60), 12)
    frames += still(3, 60)
    full = SceneConfig(detectors=CASCADE, fade_threshold=12.0, white_threshold=243.0, dissolve_window_s=0.64)
    assert [cut.kind for cut in find_cuts(frames, full)] == ["fade", "dissolve", "hard"]
    assert find_cuts(frames, full) == find_cuts(frames, EVERYTHING)


def test_a_hard_cut_seen_only_by_a_lower_rate_is_placed_on_its_frame() -> None:
    """Strong motion at the native rate hides the cut from it."""
    frames = still(0, 60) + still(1, 60)
    blind = CutDetectorConfig(threshold=1e9)
    cuts = find_cuts(frames, SceneConfig(detectors=(blind, CutDetectorConfig(fps=4.0, threshold=2.0))))
    assert cuts == [Cut(60, "hard")]


@pytest.mark.parametrize("fps", [10.0, 25.0, 60.0])
def test_cuts_come_in_order_and_never_before_what_is_certain(fps: float) -> None:
    rng = np.random.default_rng(1)
    frames: list[np.ndarray] = still(0, 50)
    for seed in range(1, 30):
        join = (fade, dissolve, wipe)[int(rng.integers(3))]
        frames = join(frames, still(seed, int(rng.integers(30, 90))), 10)
    detector = SceneDetector(SceneConfig(detectors=CASCADE, fade_threshold=12.0, dissolve_window_s=0.5))
    found: list[Cut] = []
    for index, image in enumerate(frames):
        certain = detector.certain_before
        cuts = detector.feed(index, index / fps, image)
        assert all(cut.frame >= certain for cut in cuts)
        assert index - detector.certain_before < 6 * fps + 60
        found += cuts
    found += detector.finish()
    gaps = np.diff([cut.frame for cut in found])
    assert len(found) > 15
    assert (gaps >= 15).all()


def test_fades_through_white() -> None:
    down = [cv2.addWeighted(still(0, 1)[0], 1 - k / 8, np.full((64, 64, 3), 255, np.uint8), k / 8, 0) for k in range(9)]
    up = [cv2.addWeighted(still(1, 1)[0], k / 8, np.full((64, 64, 3), 255, np.uint8), 1 - k / 8, 0) for k in range(9)]
    (cut,) = find_cuts(still(0, 40) + down + up + still(1, 40), EVERYTHING)
    assert cut.kind == "fade"
    assert abs(cut.frame - 49) <= 1


def test_no_detector_means_one_scene() -> None:
    assert find_cuts(still(0, 30) + still(1, 30), SceneConfig(detectors=())) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fps": 0.0}, "fps = 0.0 must be positive, or null for every frame"),
        ({"threshold": -1.0}, "threshold = -1.0 must be positive"),
        ({"window_frames": 0}, "window_frames = 0 must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(CurationError, match=message):
        CutDetectorConfig(**wrong)  # type: ignore[arg-type]


def test_black_must_be_darker_than_white() -> None:
    with pytest.raises(CurationError, match=r"fade_threshold = 250\.0 must be below 240\.0"):
        SceneConfig(fade_threshold=250.0, white_threshold=240.0)
