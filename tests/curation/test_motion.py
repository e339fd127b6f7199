"""Flow speed of pictures moved by known amounts; the clock of samples; pairs across cuts."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.config import CurationConfig
from curation.decode_config import MotionConfig, SceneConfig
from curation.stages.motion import FlowMethod, MotionMeter, flow_field, flow_magnitude, resize_short_side
from tests.curation.filmed import analysed


def texture(size: int = 256) -> np.ndarray:
    """(size size 3) uint8: smooth random blobs, which flow can follow."""
    noise = np.random.default_rng(0).normal(0, 1, (size, size)).astype(np.float32)
    blobs = cv2.GaussianBlur(noise, (0, 0), 5)
    grey = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)


def moved(image: np.ndarray, dx: float) -> np.ndarray:
    shift = np.array([[1, 0, dx], [0, 1, 0]], np.float32)
    return cv2.warpAffine(image, shift, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def score(images: list[np.ndarray], times_s: list[float], config: MotionConfig | None = None) -> float | None:
    meter = MotionMeter(config or MotionConfig())
    for index, (image, time_s) in enumerate(zip(images, times_s, strict=True)):
        if meter.wants(index, time_s):
            meter.feed(index, time_s, image)
    return meter.take(0, len(images), 0.0, times_s[-1])


def test_uniform_motion_has_its_speed_in_frame_heights_per_second() -> None:
    images = [moved(texture(), 4.0 * k) for k in range(5)]
    expected = 4.0 / 256 / 0.5
    assert score(images, [0.5 * k for k in range(5)]) == pytest.approx(expected, rel=0.1)


def test_score_is_the_same_at_half_the_size_and_at_twice_the_rate() -> None:
    images = [moved(texture(), 2.0 * k) for k in range(9)]
    whole = score(images, [0.25 * k for k in range(9)])
    halves = [cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA) for image in images]
    assert score(halves, [0.25 * k for k in range(9)]) == pytest.approx(whole, rel=0.1)
    assert score(images[::2], [0.5 * k for k in range(5)]) == pytest.approx(whole, rel=1e-6)


def test_still_picture_scores_zero_and_grain_little_after_blur() -> None:
    still = [texture()] * 4
    assert score(still, [0.0, 0.5, 1.0, 1.5]) == pytest.approx(0.0, abs=1e-3)
    rng = np.random.default_rng(0)
    grainy = [np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8) for image in still]
    blurred = score(grainy, [0.0, 0.5, 1.0, 1.5], MotionConfig(short_side_px=48, blur_px=1.5))
    assert blurred is not None
    assert blurred < 0.0075


def test_pairs_across_a_cut_count_for_neither_clip() -> None:
    other = np.ascontiguousarray(texture()[::-1])
    meter = MotionMeter(MotionConfig())
    for index, image in enumerate([texture(), texture(), other, other]):
        meter.feed(index, 0.5 * index, image)
    assert meter.take(0, 2, 0.0, 9.0) == pytest.approx(0.0, abs=1e-3)
    assert meter.take(2, 4, 0.0, 9.0) == pytest.approx(0.0, abs=1e-3)


def test_pairs_clear_of_a_transition_are_preferred() -> None:
    meter = MotionMeter(MotionConfig())
    images = [texture() // 4, texture(), texture(), texture()]
    for index, image in enumerate(images):
        meter.feed(index, 0.5 * index, image)
    assert meter.take(0, 4, 0.5, 9.0) == pytest.approx(0.0, abs=1e-3)


def test_no_score_for_a_single_sample_and_across_a_hole() -> None:
    assert score([texture()], [0.0]) is None
    assert score([texture(), texture()], [0.0, 10.0]) is None


@pytest.mark.parametrize(("method", "peers_px"), [("farneback", 1.259), ("dis", 0.898)])
def test_flow_of_a_real_pair_has_the_error_peers_measure(
    media: Callable[[str], Path], method: FlowMethod, peers_px: float
) -> None:
    first, second = (cv2.imread(str(media(f"mmflow/00001_img{k}.ppm")), cv2.IMREAD_GRAYSCALE) for k in (1, 2))
    truth = np.frombuffer(media("mmflow/00001_flow.flo").read_bytes()[12:], np.float32).reshape(50, 50, 2)
    error_px = np.linalg.norm(flow_field(first, second, method) - truth, axis=2).mean()
    assert error_px == pytest.approx(peers_px, abs=0.05)


@pytest.mark.parametrize("method", ["farneback", "dis"])
def test_both_methods_measure_a_known_shift(method: FlowMethod) -> None:
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (texture(), moved(texture(), 3.0)))
    assert flow_magnitude(first, second, method) == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (15, 400), (16, 16), (17, 300)])
def test_dis_takes_any_size(shape: tuple[int, int]) -> None:
    assert flow_field(np.zeros(shape, np.uint8), np.full(shape, 9, np.uint8), "dis").shape == (*shape, 2)


def test_pixels_per_sample_at_full_size() -> None:
    images = [moved(texture(), 4.0 * k) for k in range(5)]
    config = MotionConfig(unit="px", short_side_px=None, method="dis")
    assert score(images, [0.5 * k for k in range(5)], config) == pytest.approx(4.0, rel=0.1)


def test_data_juicers_samples() -> None:
    """Every n-th frame, and the second: its loop reads on once before the first pair."""
    meter = MotionMeter(MotionConfig(sampling="data_juicer"), stated_fps=24.0)
    assert [index for index in range(40) if meter.wants(index, index / 24)] == [0, 1, 12, 24, 36]


@pytest.mark.parametrize(("name", "expected_px"), [("video1", 1.869317), ("video2", 3.52111)])
def test_data_juicers_scores(media: Callable[[str], Path], name: str, expected_px: float) -> None:
    """tests/ops/filter/test_video_motion_score_filter.py of data-juicer."""
    motion = MotionConfig(sampling="data_juicer", unit="px", short_side_px=None)
    scenes = SceneConfig(detectors=(), max_clip_s=1000.0)
    (clip,) = analysed(media(f"data-juicer/{name}.mp4"), CurationConfig(motion=motion, scenes=scenes)).clips
    assert clip.row["motion_score"] == pytest.approx(expected_px, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 4000, 3), (64, 48, 3)])
def test_any_size_becomes_one_flow_can_take(shape: tuple[int, int, int]) -> None:
    resized = resize_short_side(np.zeros(shape, np.uint8), 48)
    assert min(resized.shape[:2]) == 48
    assert max(resized.shape[:2]) <= 8 * 48
