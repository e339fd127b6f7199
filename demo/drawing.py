"""Pen and paper of the toon world: places, heroes, titles and bad cameras, anti-aliased at any size.

Places are pale or dark and heroes saturated, so that a probe can tell them apart by colour alone.
"""

import functools
import math

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Rgb = tuple[int, int, int]

SUBPIXEL_BITS = 6
OUTLINE: Rgb = (25, 20, 30)
COLOUR_RGB: dict[str, Rgb] = {
    "red": (235, 25, 30),
    "yellow": (245, 225, 15),
    "green": (20, 185, 40),
    "cyan": (10, 215, 225),
    "blue": (25, 55, 235),
    "magenta": (230, 25, 215),
}
OUTLINE_POINTS = 60


def background(place: str, height: int, width: int) -> Image:
    """A fresh copy of the empty place → (height width 3) uint8 RGB."""
    return _paint_place(place, height, width).copy()


@functools.cache
def _paint_place(place: str, height: int, width: int) -> Image:
    scale = max(1, math.ceil(512 / height))
    canvas = np.zeros((height * scale, width * scale, 3), np.uint8)
    _PAINTERS[place](canvas)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _band(canvas: Image, top: float, bottom: float, rgb: Rgb) -> None:
    height = canvas.shape[0]
    canvas[round(top * height) : round(bottom * height)] = rgb


def _disc(canvas: Image, x: float, y: float, radius: float, rgb: Rgb) -> None:
    unit = canvas.shape[0]
    cv2.circle(canvas, (round(x * unit), round(y * unit)), round(radius * unit), rgb, -1)


def _polygon(canvas: Image, points: list[tuple[float, float]], rgb: Rgb) -> None:
    cv2.fillPoly(canvas, [np.round(np.array(points) * canvas.shape[0]).astype(np.int32)], rgb)


def _columns(canvas: Image, step: float) -> list[float]:
    """Left edges of columns `step` wide that cover the canvas, in frame heights."""
    return [i * step for i in range(math.ceil(canvas.shape[1] / canvas.shape[0] / step))]


def _paint_beach(canvas: Image) -> None:
    _band(canvas, 0, 0.38, (205, 228, 240))
    _band(canvas, 0.38, 0.58, (130, 165, 190))
    _band(canvas, 0.58, 1, (236, 222, 188))
    _disc(canvas, 0.82, 0.15, 0.09, (250, 243, 205))


def _paint_forest(canvas: Image) -> None:
    _band(canvas, 0, 0.75, (176, 196, 172))
    _band(canvas, 0.75, 1, (104, 120, 92))
    for i, x in enumerate(_columns(canvas, 0.2)):
        top = 0.05 + 0.12 * (i % 3)
        _polygon(canvas, [(x - 0.04, 0.78), (x + 0.10, top), (x + 0.24, 0.78)], (94, 118, 92))


def _paint_city(canvas: Image) -> None:
    _band(canvas, 0, 0.85, (202, 194, 212))
    _band(canvas, 0.85, 1, (84, 82, 90))
    for i, x in enumerate(_columns(canvas, 0.17)):
        top = 0.14 + 0.11 * ((i * 2) % 5)
        _polygon(canvas, [(x, 0.85), (x, top), (x + 0.14, top), (x + 0.14, 0.85)], (128, 122, 140))
        for row in range(5):
            y = top + 0.06 + 0.11 * row
            if y < 0.78:
                _polygon(
                    canvas,
                    [(x + 0.04, y), (x + 0.1, y), (x + 0.1, y + 0.05), (x + 0.04, y + 0.05)],
                    (226, 222, 200),
                )


def _paint_desert(canvas: Image) -> None:
    _band(canvas, 0, 1, (232, 206, 178))
    _disc(canvas, 0.15, 0.16, 0.1, (250, 238, 215))
    aspect = canvas.shape[1] / canvas.shape[0]
    _polygon(canvas, [(0, 1), (0, 0.62), (0.35 * aspect, 0.45), (aspect, 0.75), (aspect, 1)], (204, 170, 134))
    _polygon(canvas, [(0, 1), (0, 0.85), (0.7 * aspect, 0.6), (aspect, 0.7), (aspect, 1)], (184, 148, 114))


def _paint_space(canvas: Image) -> None:
    _band(canvas, 0, 1, (22, 22, 38))
    rng = np.random.default_rng(7)
    for x, y in rng.uniform(0, 1, size=(60, 2)):
        _disc(canvas, x * canvas.shape[1] / canvas.shape[0], y * 0.8, 0.008, (215, 215, 225))
    _disc(canvas, 0.18, 0.2, 0.11, (150, 146, 138))
    _band(canvas, 0.84, 1, (88, 86, 96))


def _paint_snow(canvas: Image) -> None:
    _band(canvas, 0, 1, (218, 228, 240))
    aspect = canvas.shape[1] / canvas.shape[0]
    for x, top in ((0.1, 0.2), (0.55, 0.1), (1.0, 0.25)):
        x *= aspect
        _polygon(canvas, [(x - 0.4, 0.75), (x, top), (x + 0.4, 0.75)], (166, 178, 200))
        _polygon(canvas, [(x - 0.09, top + 0.125), (x, top), (x + 0.09, top + 0.125)], (250, 250, 252))
    _band(canvas, 0.7, 1, (248, 250, 252))


_PAINTERS = {
    "beach": _paint_beach,
    "forest": _paint_forest,
    "city": _paint_city,
    "desert": _paint_desert,
    "space": _paint_space,
    "snow": _paint_snow,
}


@functools.cache
def unit_outline(shape: str) -> NDArray[np.float64]:
    """Outline of `shape` around the origin, about one unit in radius, y downwards → (OUTLINE_POINTS, 2)."""
    turn = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    if shape == "circle":
        corners = np.stack([0.95 * np.cos(turn), 0.95 * np.sin(turn)], axis=1)
    elif shape == "square":
        corners = 0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    elif shape == "triangle":
        corners = np.array([(0, -1.05), (1.08, 0.85), (-1.08, 0.85)], float)
    elif shape == "star":
        radii, angles = np.tile((1.2, 0.5), 5), np.pi * (np.arange(10) / 5 - 0.5)
        corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    elif shape == "cross":
        arm = 0.37
        quarter = np.array([(-arm, -1), (arm, -1), (arm, -arm)], float)
        corners = np.concatenate([quarter @ _quarter_turns(count) for count in range(4)])
    elif shape == "heart":
        x = 16 * np.sin(turn) ** 3
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        corners = np.stack([x, -y], axis=1) / 15.5
    else:
        raise ValueError(f"unknown shape {shape!r}")
    return _resample(corners, OUTLINE_POINTS)


def _quarter_turns(count: int) -> NDArray[np.float64]:
    """Matrix that turns row vectors by `count` right angles."""
    return np.asarray(np.linalg.matrix_power(np.array([(0, 1), (-1, 0)], float), count))


def _resample(corners: NDArray[np.float64], num_points: int) -> NDArray[np.float64]:
    """Points at equal distances along the closed polygon."""
    closed = np.vstack([corners, corners[:1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, length[-1], num_points, endpoint=False)
    return np.stack([np.interp(at, length, closed[:, axis]) for axis in (0, 1)], axis=1)


def hero_outline(shape: str, x: float, y: float, radius: float, angle: float) -> NDArray[np.float64]:
    """Outline of the hero in frame heights → (OUTLINE_POINTS, 2)."""
    cos, sin = math.cos(angle), math.sin(angle)
    turned = unit_outline(shape) @ np.array([(cos, sin), (-sin, cos)])
    return np.asarray(turned * radius + (x, y))


def draw_hero(
    image: Image,
    shape: str,
    colour: str,
    x: float,
    y: float,
    radius: float,
    angle: float = 0.0,
    gaze: float = 0.0,
) -> None:
    """Draw the hero into `image` in place; lengths in frame heights, `gaze` −1 … 1 moves the pupils."""
    unit = image.shape[0] * 2**SUBPIXEL_BITS
    outer = np.round(hero_outline(shape, x, y, radius * 1.1, angle) * unit).astype(np.int32)
    inner = np.round(hero_outline(shape, x, y, radius, angle) * unit).astype(np.int32)
    cv2.fillPoly(image, [outer], OUTLINE, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.fillPoly(image, [inner], COLOUR_RGB[colour], cv2.LINE_AA, SUBPIXEL_BITS)
    cos, sin = math.cos(angle), math.sin(angle)
    for side in (-0.3, 0.3):
        eye = (side + 0.12 * gaze, -0.12)
        for offset, size, rgb in ((0.0, 0.22, (255, 255, 255)), (0.09 * gaze, 0.11, OUTLINE)):
            px, py = eye[0] + offset, eye[1]
            centre = (x + radius * (cos * px - sin * py), y + radius * (sin * px + cos * py))
            at = (round(centre[0] * unit), round(centre[1] * unit))
            cv2.circle(image, at, round(size * radius * unit), rgb, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def title_box(title: str, at_top: bool, height: int, width: int) -> tuple[int, int, int, int]:
    """Box of the title's letters in pixels: left, top, right, bottom."""
    _, text_width, text_height = _title_size(title, height, width)
    left = (width - text_width) // 2
    bottom = round(0.2 * height) if at_top else round(0.94 * height)
    return left, bottom - text_height, left + text_width, bottom


def _title_size(title: str, height: int, width: int) -> tuple[float, int, int]:
    (base_width, base_height), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
    scale = min(0.16 * height / base_height, 0.92 * width / base_width)
    return scale, round(base_width * scale), round(base_height * scale)


def draw_title(image: Image, title: str, at_top: bool) -> None:
    """Burn a white title with a dark edge into `image` in place."""
    height, width = image.shape[:2]
    scale, _, _ = _title_size(title, height, width)
    left, _, _, bottom = title_box(title, at_top, height, width)
    letters = np.zeros((height, width), np.uint8)
    thickness = max(1, round(0.016 * height))
    cv2.putText(letters, title, (left, bottom), cv2.FONT_HERSHEY_DUPLEX, scale, 255, thickness, cv2.LINE_AA)
    reach = 2 * max(1, round(0.012 * height)) + 1
    edge = cv2.dilate(letters, np.ones((reach, reach), np.uint8))
    for alpha, rgb in ((edge, OUTLINE), (letters, (255, 255, 255))):
        weight = alpha[..., None].astype(np.float32) / 255
        image[:] = np.round((1 - weight) * image + weight * np.array(rgb)).astype(np.uint8)


def degrade(image: Image, quality: str, noise_seed: int = 0) -> Image:
    """Film `image` with a bad camera: blurry, noisy or faded; clean returns it as it is."""
    if quality == "blurry":
        return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.035 * image.shape[0]), np.uint8)
    if quality == "noisy":
        noise = np.random.default_rng(noise_seed).normal(0, 28, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    if quality == "faded":
        return np.round(128 + 0.45 * (image.astype(np.float32) - 128)).astype(np.uint8)
    return image
