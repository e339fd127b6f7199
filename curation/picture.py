"""Decoded pictures as arrays: as displayed (rotation and pixel aspect applied) and, cheaper, reduced for cut detection.

Conversion is the dearest part of a decode pass. Pictures that are kept go through libswscale, which averages areas and
converts only what remains; every frame's small copy takes few samples of the planes first and converts those.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

_FULL_RANGE = 2
# V to red, U to blue, U and V to green, times 2^16, by ITU-T H.273's number: BT.709, BT.2020; else BT.601.
_SWSCALE_COEFFICIENTS = {1: (117504, 138453, 13954, 34903), 9: (110013, 140363, 12277, 42626)}
_BT601 = (104597, 132201, 25675, 53279)


@dataclass(frozen=True)
class Frame:
    """One decoded frame; pixels are converted when asked for, so frames that nobody looks at cost only their
    decoding. `size`: width and height in px as displayed; the first frame of a video decides it for all.
    """

    index: int
    pts: int
    time_s: float
    picture: av.VideoFrame
    size: tuple[int, int]

    @property
    def image(self) -> np.ndarray:
        """(h w 3) uint8 RGB at the displayed size."""
        return self.resized(*self.size)

    def resized(self, width: int, height: int) -> np.ndarray:
        """(height width 3) uint8 RGB; area-averaged when smaller, linear when larger."""
        turned = self.picture.rotation % 180 != 0
        stored = self._stored_rgb(*((height, width) if turned else (width, height)))
        return np.ascontiguousarray(np.rot90(stored, self.picture.rotation // 90))

    def fitted(self, long_side_px: int) -> np.ndarray:
        """(h w 3) uint8 RGB with its long side at most `long_side_px`; never enlarged."""
        width, height = self.size
        scale = min(1.0, long_side_px / max(width, height))
        return self.resized(max(1, round(width * scale)), max(1, round(height * scale)))

    def covering(self, width: int, height: int) -> np.ndarray:
        """(height width 3) uint8 RGB: resized to cover that size, centre cropped."""
        full_width, full_height = self.size
        scale = max(width / full_width, height / full_height)
        covered = self.resized(max(width, round(full_width * scale)), max(height, round(full_height * scale)))
        top, left = (covered.shape[0] - height) // 2, (covered.shape[1] - width) // 2
        return np.ascontiguousarray(covered[top : top + height, left : left + width])

    def _stored_rgb(self, width: int, height: int) -> np.ndarray:
        smaller = width < self.picture.width or height < self.picture.height
        method = "AREA" if smaller else "BILINEAR"
        converted = _reformatter().reformat(
            self.picture, width, height, format="rgb24", interpolation=method, threads=1
        )
        return converted.to_ndarray()


def displayed_size(picture: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    """Width and height in px of a stored picture once its pixels are square and it is turned upright."""
    width, height = max(1, round(picture.width * pixel_aspect)), picture.height
    return (height, width) if picture.rotation % 180 else (width, height)


def detection_size(picture: av.VideoFrame, long_side_px: int) -> tuple[int, int]:
    """Width and height in px, as stored, of the small copies of a video that begins with `picture`; never larger."""
    scale = min(1.0, long_side_px / max(picture.width, picture.height))
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


class SmallCopy:
    """A frame reduced, as stored, for everything that looks at every frame.

    Gives what PySceneDetect sees, so that its thresholds hold: the picture converted by libswscale, then reduced by
    linear interpolation without smoothing. That reads few samples of each plane; only those are converted.
    """

    def __init__(self, picture: av.VideoFrame, size: tuple[int, int]) -> None:
        planes = _yuv_planes(picture)
        self._tables: tuple[np.ndarray, ...] | None = None
        if planes is None:
            self._samples = [_reduced(picture.to_ndarray(format="bgr24", threads=1), size)]
            return
        shift = picture.format.components[0].bits - 8
        small = [_reduced(planes[0], size), *(_chroma(plane, planes[0].shape, size) for plane in planes[1:])]
        self._samples = [(plane >> shift).astype(np.uint8) for plane in small] if shift else small
        full = int(picture.color_range) == _FULL_RANGE or picture.format.name.startswith("yuvj")
        self._tables = _conversion_tables(int(picture.colorspace), full)

    @cached_property
    def bgr(self) -> np.ndarray:
        """(h w 3) uint8 BGR."""
        if self._tables is None:
            return self._samples[0]
        luma, blue_u, green_u, green_v, red_v = self._tables
        y, u, v = self._samples
        y = cv2.LUT(y, luma)
        blue = cv2.add(y, cv2.LUT(u, blue_u), dtype=cv2.CV_8U)
        green = cv2.add(cv2.add(y, cv2.LUT(u, green_u)), cv2.LUT(v, green_v), dtype=cv2.CV_8U)
        return cv2.merge([blue, green, cv2.add(y, cv2.LUT(v, red_v), dtype=cv2.CV_8U)])

    def digest(self) -> bytes:
        """16 bytes that frames with the same samples share: all of luma, a sixteenth of chroma."""
        first, *others = self._samples
        sha = hashlib.sha256(np.ascontiguousarray(first).data)
        for plane in others:
            sha.update(np.ascontiguousarray(plane[::4, ::4]).data)
        return sha.digest()[:16]


def _yuv_planes(picture: av.VideoFrame) -> list[np.ndarray] | None:
    """Y, U, V as (h w) uint8 or uint16 without a copy; null for formats that are not planar YUV of 8 to 16 bits."""
    name, components = picture.format.name, picture.format.components
    if not name.startswith(("yuv4", "yuvj4")) or name.endswith("be") or len(components) < 3:
        return None
    kind = np.dtype(np.uint8 if components[0].bits == 8 else np.uint16)
    planes = list(picture.planes)[:3]
    if any(plane.line_size < plane.width * kind.itemsize for plane in planes):  # stored bottom up
        return None
    return [_plane(plane, kind) for plane in planes]


def _plane(plane: av.video.plane.VideoPlane, kind: np.dtype) -> np.ndarray:
    rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width]


def _reduced(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def _chroma(plane: np.ndarray, full_shape: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Chroma where luma is sampled: that of the block in which the nearest pixel lies."""
    if plane.shape == full_shape:
        return _reduced(plane, size)
    axes = zip(plane.shape, full_shape, size[::-1], strict=True)
    rows, columns = (_chroma_positions(each, full, out) for each, full, out in axes)
    return plane[rows][:, columns]


@lru_cache(maxsize=64)
def _chroma_positions(each: int, full: int, out: int) -> np.ndarray:
    """Index, along an axis of `each` chroma samples for `full` pixels, of the sample for each of `out` pixels."""
    pixels = np.rint(np.clip((np.arange(out) + 0.5) * (full / out) - 0.5, 0, full - 1)).astype(np.int64)
    return np.minimum(pixels // -(-full // each), each - 1)


@cache
def _conversion_tables(colorspace: int, full_range: bool) -> tuple[np.ndarray, ...]:
    """libswscale's integer conversion as tables of 256 int16: Y for all, U for blue and green, V for green and red."""
    from_v, from_u, green_u, green_v = _SWSCALE_COEFFICIENTS.get(colorspace, _BT601)
    if full_range:
        luma, black, narrow = 1 << 16, 0, (224, 255)
    else:
        luma, black, narrow = (1 << 16) * 255 // 219, 16, (1, 1)
    blue_u, red_v, green_u, green_v = (c * narrow[0] // narrow[1] for c in (from_u, from_v, green_u, green_v))
    terms = ((luma, black), (blue_u, 128), (-green_u, 128), (-green_v, 128), (red_v, 128))
    return tuple(_product_table(factor, offset) for factor, offset in terms)


def _product_table(factor: int, offset: int) -> np.ndarray:
    """(value - offset) * factor / 2^16, rounded as 16-bit SIMD multiplication does."""
    rounded = (factor * (1 << 13) + (1 << 15)) >> 16
    return ((np.arange(256, dtype=np.int64) - offset) * 8 * rounded >> 16).astype(np.int16)


@cache
def _reformatter() -> VideoReformatter:
    return VideoReformatter()
