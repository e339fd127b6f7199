"""Text area on drawn and real pictures; union of boxes; a missing model."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.config import CurationError, TextConfig
from curation.stages.text import TextDetector, scaled_to, union_area_frac


@pytest.fixture(scope="module")
def detector() -> TextDetector:
    return TextDetector(TextConfig())


def lettered(text: str) -> np.ndarray:
    """(128 128 3) uint8: a plain ground with a line of text."""
    image = np.full((128, 128, 3), (40, 120, 60), np.uint8)
    cv2.putText(image, text, (6, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2, cv2.LINE_AA)
    return image


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def test_union_counts_overlap_once_and_stays_inside() -> None:
    left, both = box(0, 0, 9, 19), box(5, 0, 19, 19)
    assert union_area_frac([left], 20, 20) == pytest.approx(0.5)
    assert union_area_frac([left, both], 20, 20) == pytest.approx(1.0)
    assert union_area_frac([box(-50, -50, 90, 90)], 20, 20) == 1.0
    assert union_area_frac([], 20, 20) == 0.0


def test_text_has_area_and_a_plain_picture_none(detector: TextDetector) -> None:
    text, plain = detector.area_frac([lettered("HELLO ALL"), np.full((128, 128, 3), 90, np.uint8)])
    assert 0.05 < text < 0.4
    assert plain == 0.0


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 3), (40, 2000, 3), (500, 12, 3)])
def test_any_size_is_taken(detector: TextDetector, shape: tuple[int, int, int]) -> None:
    assert detector.area_frac([np.full(shape, 128, np.uint8)]) == [0.0]


def test_scaling_is_bounded_both_ways() -> None:
    assert scaled_to(np.zeros((128, 128, 3), np.uint8), 320, 1.75).shape == (224, 224, 3)
    assert scaled_to(np.zeros((1080, 1920, 3), np.uint8), 320, 1.75).shape == (180, 320, 3)
    assert scaled_to(np.zeros((10, 2000, 3), np.uint8), 320, 1.75).shape == (32, 320, 3)


@pytest.mark.parametrize("folder", [None, Path("no/such/folder")])
def test_missing_weights_are_one_line_with_the_remedy(folder: Path | None) -> None:
    with pytest.raises(CurationError, match=r"craft_mlt_25k\.pth not found.*--profile demo"):
        TextDetector(TextConfig(detector="easyocr", weights_dir=folder))


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "craft_mlt_25k.pth").write_bytes(b"truncated")
    with pytest.raises(CurationError, match="damaged"):
        TextDetector(TextConfig(detector="easyocr", weights_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("easyocr/chinese.jpg", 0.1, 0.35), ("easyocr/english.png", 0.1, 0.6), ("data-juicer/cat.jpg", 0.0, 0.02)],
)
def test_real_pictures(
    detector: TextDetector, media: Callable[[str], Path], name: str, least: float, most: float
) -> None:
    image = cv2.imread(str(media(name)))[:, :, ::-1]
    assert least <= detector.area_frac([image])[0] <= most
