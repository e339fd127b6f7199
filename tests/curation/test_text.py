"""Text area on drawn and real pictures, by RapidOCR and by CRAFT with generated weights; missing and damaged models."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.model_config import TextConfig
from curation.model_files import CRAFT_FILE, CRAFT_MD5, check_model_files
from curation.stages.text import TextDetector, scaled_to, union_area_frac
from tests.curation import generated_craft


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
    (tmp_path / CRAFT_FILE).write_bytes(b"truncated")
    config = TextConfig(detector="easyocr", weights_dir=tmp_path)
    with pytest.raises(CurationError, match=r"damaged \(MD5 mismatch"):
        TextDetector(config)
    with pytest.raises(CurationError, match=rf"text\.weights_dir: .*{CRAFT_FILE} damaged .*{CRAFT_MD5}.*unzip"):
        check_model_files(CurationConfig(text=config), {"text"})


@pytest.fixture(scope="module")
def craft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextDetector]:
    """EasyOCR on generated weights, whose md5 it is made to expect."""
    import easyocr

    folder = tmp_path_factory.mktemp("easyocr")
    generated_craft.save(folder / CRAFT_FILE)
    with pytest.MonkeyPatch.context() as patch:
        md5 = hashlib.md5((folder / CRAFT_FILE).read_bytes()).hexdigest()
        patch.setitem(easyocr.easyocr.detection_models["craft"], "md5sum", md5)
        config = TextConfig(detector="easyocr", weights_dir=folder, canvas_px=generated_craft.SIDE_PX, batch_size=3)
        yield TextDetector(config)


RECTANGLES = [(30, 40, 80, 70), (70, 90, 130, 130), (60, 20, 110, 50)]
PLAIN = generated_craft.rectangle(0, 0, 0, 0)


def test_craft_finds_what_its_weights_look_for(craft: TextDetector) -> None:
    """Boxes are where the rectangles are, in the order of the images, grown by EasyOCR's margins."""
    images = np.stack([*(generated_craft.rectangle(*corners) for corners in RECTANGLES), PLAIN])
    *found, none = craft._find(images)
    assert none == []
    for boxes, corners in zip(found, RECTANGLES, strict=True):
        assert len(boxes) == 1
        grown = np.array([boxes[0].min(axis=0), boxes[0].max(axis=0)]).ravel() - corners
        assert (grown[:2] <= 0).all()
        assert (grown[2:] >= 0).all()
        assert np.abs(grown).max() <= 20


def test_craft_measures_union_area_whatever_the_batch(craft: TextDetector) -> None:
    """Images of other sizes among them, larger than the canvas too; more than one batch of three."""
    large = cv2.resize(generated_craft.rectangle(*RECTANGLES[0]), (480, 480), interpolation=cv2.INTER_NEAREST)
    wide = np.concatenate([generated_craft.rectangle(*RECTANGLES[1]), PLAIN], axis=1)
    rectangles = [generated_craft.rectangle(*corners) for corners in RECTANGLES]
    images = [rectangles[0], wide, rectangles[1], PLAIN, large, rectangles[2], PLAIN[:4]]
    together = craft.area_frac(images)
    assert together == pytest.approx([craft.area_frac([image])[0] for image in images], abs=1e-6)
    assert together[3] == together[6] == 0.0
    assert together[4] == pytest.approx(together[0], abs=0.02), "the canvas decides, not the size of the image"
    for area, corners in zip([together[i] for i in (0, 2, 5)], RECTANGLES, strict=True):
        width, height = corners[2] - corners[0], corners[3] - corners[1]
        assert width * height < area * generated_craft.SIDE_PX**2 < (width + 40) * (height + 40)


# Areas of the boxes that EasyOCR finds in the same pictures; crops x0, y0, x1, y1.
EASYOCR = [
    ("easyocr/chinese.jpg", (0, 0, 640, 339), 0.2116),
    ("easyocr/english.png", (260, 90, 605, 160), 0.5123),
    ("easyocr/english.png", (243, 234, 636, 360), 0.4014),
]


@pytest.mark.parametrize(("name", "crop", "area"), EASYOCR)
def test_real_pictures_have_about_the_area_that_easyocr_finds(
    detector: TextDetector, media: Callable[[str], Path], name: str, crop: tuple[int, int, int, int], area: float
) -> None:
    """Within a quarter: EasyOCR pads its boxes and joins words to lines, RapidOCR does neither."""
    x0, y0, x1, y1 = crop
    image = cv2.imread(str(media(name)))[y0:y1, x0:x1, ::-1]
    assert detector.area_frac([image])[0] == pytest.approx(area, rel=0.25)


def test_a_cat_is_no_text(detector: TextDetector, media: Callable[[str], Path]) -> None:
    assert detector.area_frac([cv2.imread(str(media("data-juicer/cat.jpg")))[:, :, ::-1]])[0] <= 0.02


# data-juicer's ratio with EasyOCR (ch_sim + en) over three frames, and on which side of SVD's 7 % it falls.
@pytest.mark.parametrize(("name", "ratio"), [("data-juicer/video1.mp4", 0.067), ("data-juicer/video2.mp4", 0.288)])
def test_videos_fall_on_easyocr_s_side_of_the_threshold(
    detector: TextDetector, media: Callable[[str], Path], name: str, ratio: float
) -> None:
    """Values differ by up to 35 %, with the detector and with which three frames are looked at."""
    video = cv2.VideoCapture(str(media(name)))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][:, :, ::-1])
    three = [frames[int(i)] for i in np.linspace(0, len(frames) - 1, 3)]
    area = float(np.mean(detector.area_frac(three)))
    assert area == pytest.approx(ratio, rel=0.35)
    assert (area > 0.07) == (ratio > 0.07)
