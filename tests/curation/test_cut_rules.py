"""Our rules against PySceneDetect's own on random scores and levels, and what goes beyond them."""

import cv2
import numpy as np
import pytest
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

from curation.cut_rules import AdaptiveRule, ContentRule, FadeRule, content_change


def peer_cuts(detector: ContentDetector, scores: list[float]) -> list[int]:
    """What PySceneDetect's detector answers when its frame scores are `scores`."""
    remaining = iter(scores)
    detector._calculate_frame_score = lambda timecode, image: next(remaining)
    blank = np.zeros((1, 1, 3), np.uint8)
    return [cut.frame_num for k in range(len(scores)) for cut in detector.process_frame(FrameTimecode(k, 25.0), blank)]


def random_scores(seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    scores = rng.exponential(6.0, 400) * rng.choice([0.0, 1.0, 6.0], 400, p=[0.1, 0.75, 0.15])
    return [0.0, *scores.tolist()]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("min_frames", [1, 4, 15])
def test_content_and_adaptive_rules_are_those_of_the_peer(seed: int, min_frames: int) -> None:
    scores = random_scores(seed)
    content, adaptive = ContentRule(27.0, min_frames), AdaptiveRule(3.0, 2, 15.0, min_frames)
    ours = [cut for k, score in enumerate(scores) for cut in content.feed(k, score)]
    assert ours == peer_cuts(ContentDetector(27.0, min_frames), scores)
    ours = [cut for k, score in enumerate(scores) for cut in adaptive.feed(k, score)]
    peer = AdaptiveDetector(3.0, min_scene_len=min_frames, window_width=2, min_content_val=15.0)
    assert ours == peer_cuts(peer, scores)
    assert len(ours) > 3


@pytest.mark.parametrize("seed", range(4))
def test_nothing_comes_from_before_what_a_rule_declared_open(seed: int) -> None:
    for rule in (ContentRule(20.0, 4), AdaptiveRule(2.0, 2, 10.0, 4)):
        for k, score in enumerate(random_scores(seed)):
            open_before = rule.open_from
            assert all(cut >= open_before for cut in rule.feed(k, score))


@pytest.mark.parametrize("seed", range(8))
def test_fades_through_black_are_those_of_the_peer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.choice([3, 9, 40, 120], 40), rng.integers(1, 25, 40))
    peer = ThresholdDetector(threshold=12.0, min_scene_len=15)
    wanted = [
        cut.frame_num
        for k, level in enumerate(levels)
        for cut in peer.process_frame(FrameTimecode(k, 25.0), np.full((2, 2, 3), level, np.uint8))
    ]
    rule = FadeRule(12.0, None, 15, longest_s=1e9)
    assert [found.frame for k, level in enumerate(levels) for found in rule.feed(k, k / 25, float(level))] == wanted


def fades(levels: list[float], longest_s: float = 4.0) -> list[tuple[int, int]]:
    """(frame, frame at which it was reported), at 10 frames a second."""
    rule = FadeRule(12.0, 243.0, 5, longest_s)
    return [(found.frame, k) for k, level in enumerate(levels) for found in rule.feed(k, k / 10, level)]


def test_white_counts_like_black() -> None:
    assert fades([100.0] * 20 + [250.0] * 10 + [100.0] * 20) == [(25, 30)]
    assert fades([100.0] * 20 + [3.0] * 10 + [100.0] * 20) == [(25, 30)]


def test_long_black_is_a_scene_of_its_own_and_holds_nothing_up() -> None:
    assert fades([100.0] * 20 + [3.0] * 100 + [100.0] * 20) == [(20, 61), (120, 120)]
    assert fades([3.0] * 100 + [100.0] * 20) == [(100, 100)]
    assert fades([100.0] * 20 + [3.0] * 100) == [(20, 61)]


def test_content_change_is_the_mean_over_hue_saturation_and_value() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 255, (2, 7, 5, 3), dtype=np.uint8)
    hsv = [cv2.cvtColor(image, cv2.COLOR_BGR2HSV) for image in (first, second)]
    expected = np.abs(hsv[0].astype(int) - hsv[1].astype(int)).mean()
    assert content_change(hsv[0], hsv[1]) == pytest.approx(expected, rel=1e-12)
