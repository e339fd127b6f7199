"""Pictures as displayed and as detectors see them; the small copy is the peer's to the last bit where nothing is
interpolated.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from curation.picture import Frame, SmallCopy, detection_size, displayed_size
from curation.video import decode


def picture(height: int, width: int, pixel_format: str = "yuv420p", seed: int = 0) -> av.VideoFrame:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 64 + 2, width // 64 + 2, 3), dtype=np.uint8)
    smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return av.VideoFrame.from_ndarray(smooth, format="rgb24").reformat(format=pixel_format)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (720, 1280), (144, 256), (90, 120)])
def test_small_copy_is_what_the_peer_sees(height: int, width: int) -> None:
    source = picture(height, width)
    size = detection_size(source, 256)
    peer = cv2.resize(source.to_ndarray(format="bgr24"), size, interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(SmallCopy(source, size).bgr, peer)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "gray", "rgb24"])
def test_small_copies_of_every_format_are_near_the_peer(pixel_format: str) -> None:
    source = picture(540, 960, pixel_format)
    size = detection_size(source, 256)
    peer = cv2.resize(source.to_ndarray(format="bgr24"), size, interpolation=cv2.INTER_LINEAR)
    difference = np.abs(SmallCopy(source, size).bgr.astype(int) - peer)
    assert difference.mean() < 1.6
    assert np.percentile(difference, 99) <= 8


def test_digest_changes_with_luma_and_with_chroma() -> None:
    size = (160, 120)
    planes = picture(120, 160).to_ndarray(format="yuv420p")
    digests = set()
    for change in (None, (5, 5), (121, 0)):
        changed = planes.copy()
        if change:
            changed[change] ^= 1
        digests.add(SmallCopy(av.VideoFrame.from_ndarray(changed, format="yuv420p"), size).digest())
    assert len(digests) == 3
    assert len(next(iter(digests))) == 16


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (5, 700)])
def test_tiny_and_narrow_pictures(size: tuple[int, int]) -> None:
    source = picture(size[1], size[0], "yuv420p") if min(size) > 1 else picture(size[1], size[0], "yuv444p")
    small = SmallCopy(source, detection_size(source, 256)).bgr
    assert max(small.shape[:2]) <= 256


def test_reduction_averages_areas_and_keeps_the_displayed_shape() -> None:
    checks = (np.indices((240, 320)).sum(0) % 2 * 200).astype(np.uint8)
    source = av.VideoFrame.from_ndarray(np.stack([checks] * 3, 2), format="rgb24")
    frame = Frame(0, 0, 0.0, source, displayed_size(source, Fraction(2)))
    assert frame.size == (640, 240)
    assert frame.fitted(64).shape == (24, 64, 3)
    assert np.abs(frame.fitted(64).astype(int) - 100).max() <= 6
    assert frame.image.shape == (240, 640, 3)
    assert frame.covering(48, 48).shape == (48, 48, 3)


def test_real_film_gives_the_peers_small_pictures(media: Callable[[str], Path]) -> None:
    for index, frame in enumerate(decode(str(media("pyscenedetect/testvideo.mp4")))):
        if index % 40 == 0:
            size = detection_size(frame.picture, 256)
            peer = cv2.resize(frame.picture.to_ndarray(format="bgr24"), size, interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(SmallCopy(frame.picture, size).bgr, peer)
