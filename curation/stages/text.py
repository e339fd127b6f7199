"""Text area: detected text boxes, their union over the image area (SVD App. C: clips with more than 7 % are
dropped).

Two detectors behind one interface: RapidOCR's, whose model ships in its wheel, and EasyOCR's CRAFT, as in the
paper. Detection only, nothing is read. Both see images scaled to one canvas size, which decides their cost.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curation.config_error import CurationError
from curation.model_config import TextConfig
from curation.model_files import CRAFT_FILE

# Text smaller than this cannot be told from texture; a picture this small has none.
_SMALLEST_SIDE_PX = 8
Boxes = list[np.ndarray]
FindBoxes = Callable[[np.ndarray], list[Boxes]]
"""(n h w 3) uint8 RGB, n images of one size → the boxes of each."""


class TextError(CurationError):
    """The detector cannot work on these pictures."""


class TextDetector:
    """Measures text area on images; the model is loaded once, here.

    Raises:
        CurationError: the weights of EasyOCR are missing or damaged.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self._find: FindBoxes = _rapidocr(config) if config.detector == "rapidocr" else _easyocr(config)

    def area_frac(self, images: Sequence[np.ndarray]) -> list[float]:
        """Text area over image area, 0..1, of each (h w 3) uint8 RGB image; sizes may differ."""
        areas = [0.0] * len(images)
        for places, canvases in self._batches(images):
            height, width = canvases.shape[1:3]
            for place, boxes in zip(places, self._boxes(canvases), strict=True):
                areas[place] = union_area_frac(boxes, height, width)
        return areas

    def _boxes(self, canvases: np.ndarray) -> list[Boxes]:
        """The boxes of n images of one size; what the libraries raise is the error of these images."""
        from onnxruntime.capi import onnxruntime_pybind11_state as onnx

        try:
            return self._find(canvases)
        except (cv2.error, onnx.Fail, onnx.InvalidArgument, onnx.RuntimeException) as error:
            reason = " ".join(str(error).split())[:200]
            raise TextError(
                f"text cannot be looked for in pictures of shape {canvases.shape[1:]} ({reason})"
            ) from error

    def _batches(self, images: Sequence[np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
        """Images large enough for text, on their canvas, by size: their places and (n h w 3), n ≤ `batch_size`."""
        by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for place, image in enumerate(images):
            if min(image.shape[:2]) >= _SMALLEST_SIDE_PX:
                canvas = scaled_to(image, self.config.canvas_px, self.config.largest_scale)
                by_size.setdefault(canvas.shape, []).append((place, canvas))
        size = self.config.batch_size
        parts = [group[i : i + size] for group in by_size.values() for i in range(0, len(group), size)]
        return [([place for place, _ in part], np.stack([canvas for _, canvas in part])) for part in parts]


def scaled_to(image: np.ndarray, long_side_px: int, largest_scale: float) -> np.ndarray:
    """(h w 3) with its long side `long_side_px`, or less by `largest_scale`, and its sides at least 32, the
    detectors' stride.
    """
    height, width = image.shape[:2]
    scale = min(largest_scale, long_side_px / max(height, width))
    size = (max(32, round(width * scale)), max(32, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def union_area_frac(boxes: Boxes, height: int, width: int) -> float:
    """Area covered by at least one box, over height * width; each box is (n 2): corners x, y in px."""
    covered = np.zeros((height, width), np.uint8)
    for box in boxes:
        cv2.fillPoly(covered, [np.round(box).astype(np.int32)], 1)
    return float(covered.mean())


def _rapidocr(config: TextConfig) -> FindBoxes:
    """RapidOCR's detector (PP-OCRv4, DBNet), one thread, no resizing of its own."""
    import rapidocr_onnxruntime
    from rapidocr_onnxruntime.ch_ppocr_det import TextDetector as DbDetector

    package = Path(rapidocr_onnxruntime.__file__).parent
    detect = DbDetector(
        {
            "model_path": str(package / "models" / "ch_PP-OCRv4_det_infer.onnx"),
            "limit_type": "min",
            "limit_side_len": 32,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "box_thresh": config.box_threshold,
            "use_cuda": False,
            "use_dml": False,
            "intra_op_num_threads": 1,
            "inter_op_num_threads": 1,
        }
    )

    def find(images: np.ndarray) -> list[Boxes]:
        found = [detect(np.ascontiguousarray(image[:, :, ::-1]))[0] for image in images]
        return [[] if boxes is None else list(boxes) for boxes in found]

    return find


def _easyocr(config: TextConfig) -> FindBoxes:
    """EasyOCR's CRAFT; its boxes are merged to lines and padded by 10 %, hence the union.

    It checks the md5 of the weights before it reads them.
    """
    folder = config.weights_dir
    if folder is None or not (folder / CRAFT_FILE).is_file():
        place = folder / CRAFT_FILE if folder else CRAFT_FILE
        raise CurationError(
            f"text detector weights {place} not found: put {CRAFT_FILE} there, or use --profile demo (RapidOCR)"
        )
    reader = _craft_reader(folder)

    def find(images: np.ndarray) -> list[Boxes]:
        upright, tilted = reader.detect(images, canvas_size=config.canvas_px, reformat=False)
        return [_corners(level, free) for level, free in zip(upright, tilted, strict=True)]

    return find


def _craft_reader(folder: Path) -> Any:
    import easyocr
    import torch

    try:
        return easyocr.Reader(
            ["en"],
            gpu=torch.cuda.is_available(),
            recognizer=False,
            download_enabled=False,
            verbose=False,
            model_storage_directory=str(folder),
            user_network_directory=str(folder),
        )
    except (FileNotFoundError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CurationError(
            f"text detector weights in {folder} are damaged ({reason}): replace {CRAFT_FILE}"
        ) from error


def _corners(level: Sequence[Sequence[float]], tilted: Sequence[Sequence[Sequence[float]]]) -> Boxes:
    """EasyOCR's level boxes (x0, x1, y0, y1) and tilted ones (four corners) as (4 2): corners x, y in px."""
    upright = [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, x1, y0, y1 in level]
    return upright + [np.array(box) for box in tilted]
