"""Read colour, shape, position and place back from the pixels of a toon frame.

Heroes are saturated and bright; places are pale or dark. So saturated pixels are the hero, their hue is its colour,
their outline its shape, and the rest of the frame is compared with every empty place.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from demo import drawing, world

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

PROBE_SIZE_PX = 128
TEMPLATE_SIZE_PX = 32
TEMPLATE_ANGLES = 24
MIN_CHROMA = 75
MIN_HERO_FRAC = 0.008


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a frame shows; `shape`, `colour`, `x`, `y` are None where no hero was found. Lengths in frame heights."""

    place: str
    colour: str | None = None
    shape: str | None = None
    x: float | None = None
    y: float | None = None


def read_frame(image: Image) -> Reading:
    """Read one (height width 3) uint8 RGB frame of any size."""
    native_height = image.shape[0]
    image = _resize(image)
    vivid = _chroma(image) >= MIN_CHROMA
    place = _nearest_place(image, vivid)
    if vivid.mean() < MIN_HERO_FRAC:
        return Reading(place=place)
    colour = _commonest_colour(image, vivid)
    hero = _largest_blob(vivid & (_colour_index(image) == world.COLOURS.index(colour)))
    ys, xs = np.nonzero(hero)
    return Reading(
        place=place,
        colour=colour,
        shape=_nearest_shape(hero, native_height),
        x=float(xs.mean() + 0.5) / PROBE_SIZE_PX,
        y=float(ys.mean() + 0.5) / PROBE_SIZE_PX,
    )


def _resize(image: Image) -> Image:
    height, width = image.shape[:2]
    size = (round(PROBE_SIZE_PX * width / height), PROBE_SIZE_PX)
    interpolation = cv2.INTER_AREA if height > PROBE_SIZE_PX else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)


def _chroma(image: Image) -> NDArray[np.int16]:
    """Brightest minus darkest channel → (h w)."""
    return np.asarray(image.max(axis=2).astype(np.int16) - image.min(axis=2))


@functools.cache
def _palette_hues() -> NDArray[np.float32]:
    palette = np.array([[drawing.COLOUR_RGB[colour] for colour in world.COLOURS]], np.uint8)
    return np.asarray(_hue(palette)[0])


def _hue(image: Image) -> NDArray[np.float32]:
    """Hue in degrees → (h w)."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[..., 0])


def _colour_index(image: Image) -> NDArray[np.int64]:
    """Index of the palette colour nearest in hue, for every pixel → (h w)."""
    distance = np.abs(_hue(image)[..., None] - _palette_hues())
    return np.asarray(np.minimum(distance, 360 - distance).argmin(axis=-1))


def _commonest_colour(image: Image, vivid: Mask) -> str:
    counts = np.bincount(_colour_index(image)[vivid], minlength=len(world.COLOURS))
    return world.COLOURS[int(counts.argmax())]


def _largest_blob(mask: Mask) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if len(stats) < 2:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _nearest_place(image: Image, vivid: Mask) -> str:
    """The empty place with the smallest mean difference outside the hero and its outline."""
    outside = ~cv2.dilate(vivid.astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
    if not outside.any():
        outside = ~vivid
    soft = cv2.GaussianBlur(image, (0, 0), 3)
    height, width = image.shape[:2]
    errors = []
    for place in world.PLACES:
        empty = cv2.GaussianBlur(drawing.background(place, height, width), (0, 0), 3)
        errors.append(np.abs(soft.astype(np.int16) - empty)[outside].mean())
    return world.PLACES[int(np.argmin(errors))]


def _normalised(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Fill the outline (the eyes are holes), centre it and scale it to unit area → float (T T) in [0, 1]."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, -1)
    ys, xs = np.nonzero(filled)
    scale = 0.5 * TEMPLATE_SIZE_PX / np.sqrt(len(xs))
    middle = TEMPLATE_SIZE_PX / 2 - 0.5
    move = np.array([(scale, 0, middle - scale * xs.mean()), (0, scale, middle - scale * ys.mean())])
    drawn = cv2.warpAffine(filled.astype(np.float32), move, (TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX))
    return np.asarray(drawn, np.float32)


@functools.cache
def _shape_templates(native_height: int) -> NDArray[np.float32]:
    """Every shape at every angle, as it looks when drawn `native_height` pixels high → (shapes angles T T)."""
    templates = []
    for shape in world.SHAPES:
        for turn in np.linspace(0, 2 * np.pi, TEMPLATE_ANGLES, endpoint=False):
            canvas = np.full((native_height, native_height, 3), 160, np.uint8)
            drawing.draw_hero(canvas, shape, world.COLOURS[0], 0.5, 0.5, world.HERO_RADIUS, float(turn))
            image = _resize(canvas)
            templates.append(_normalised(_largest_blob(_chroma(image) >= MIN_CHROMA).astype(np.uint8)))
    size = (len(world.SHAPES), TEMPLATE_ANGLES, TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX)
    return np.stack(templates).reshape(size)


def _nearest_shape(hero: Mask, native_height: int) -> str:
    templates = _shape_templates(native_height)
    error = np.abs(templates - _normalised(hero.astype(np.uint8))).mean(axis=(-1, -2)).min(axis=1)
    return world.SHAPES[int(error.argmin())]
