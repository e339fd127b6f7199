"""Read colour, shape, position, size and place back from the pixels of a toon frame.

Heroes are saturated and bright; places are pale or dark. So saturated pixels are the hero, their hue is its colour,
their outline its shape, and the rest of the frame is compared with every empty place.
"""

import functools
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from demo import drawing, world

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Patch = NDArray[np.float32]
Outline = NDArray[np.uint8]

PROBE_SIZE_PX = 128
TEMPLATE_SIZE_PX = 32
ANGLES = 36
"""Angles of the drawings, from upright on, clockwise."""
DRAWN_RADII = (0.11, 0.18, 0.25)
"""Of the drawings, in frame heights: a small hero is blurred more."""
MIN_CHROMA = 75
MIN_HERO_FRAC = 0.008
SOFT_PX = 3
EYE_PX = 9
"""Of a frame `PROBE_SIZE_PX` high."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a frame shows; all but `place` are None where no hero was found.

    x, y: middle of the hero in frame heights; area: of its outline filled, in squared frame heights
    misfits: mean squared difference from drawings of every shape at every angle, (shapes angles)
    """

    place: str
    colour: str | None = None
    shape: str | None = None
    x: float | None = None
    y: float | None = None
    area: float | None = None
    misfits: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


def read_frame(image: Image) -> Reading:
    """Read one (height width 3) uint8 RGB frame of any size."""
    native_height = image.shape[0]
    image = _resize(image)
    chroma = _chroma(image)
    vivid = chroma >= MIN_CHROMA
    place = _nearest_place(image, vivid)
    if vivid.mean() < MIN_HERO_FRAC:
        return Reading(place=place)
    colours = _colour_index(image[vivid])
    colour = int(np.bincount(colours).argmax())
    vivid[vivid] = colours == colour
    outline = _outline(vivid)
    ys, xs = np.nonzero(outline)
    misfits = _misfits(_patch(chroma, outline), native_height)
    return Reading(
        place=place,
        colour=world.COLOURS[colour],
        shape=world.SHAPES[int(misfits.min(axis=1).argmin())],
        x=float(xs.mean() + 0.5) / PROBE_SIZE_PX,
        y=float(ys.mean() + 0.5) / PROBE_SIZE_PX,
        area=len(xs) / PROBE_SIZE_PX**2,
        misfits=misfits,
    )


def _resize(image: Image) -> Image:
    height, width = image.shape[:2]
    size = (round(PROBE_SIZE_PX * width / height), PROBE_SIZE_PX)
    interpolation = cv2.INTER_AREA if height > PROBE_SIZE_PX else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)


def _chroma(image: Image) -> NDArray[np.int16]:
    """Brightest minus darkest channel → (h w)."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return np.asarray(brightest.astype(np.int16) - darkest)


@functools.cache
def _palette_hues() -> NDArray[np.float32]:
    return _hue(np.array([drawing.COLOUR_RGB[colour] for colour in world.COLOURS], np.uint8))


def _hue(pixels: Image) -> NDArray[np.float32]:
    """Hue in degrees, (n 3) → (n,)."""
    return np.asarray(cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0, :, 0])


def _colour_index(pixels: Image) -> NDArray[np.int64]:
    """Index of the palette colour nearest in hue, (n 3) → (n,)."""
    distance = np.abs(_hue(pixels)[:, None] - _palette_hues())
    return np.asarray(np.minimum(distance, 360 - distance).argmin(axis=-1))


def _largest_blob(mask: Mask) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if len(stats) < 2:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _nearest_place(image: Image, vivid: Mask) -> str:
    """The empty place with the smallest mean difference outside the hero and its outline."""
    near = cv2.dilate(vivid.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    outside = ~near[::SOFT_PX, ::SOFT_PX]
    if not outside.any():
        outside = ~vivid[::SOFT_PX, ::SOFT_PX]
    height, width = image.shape[:2]
    shown = _soft(image)
    errors = np.stack([np.abs(shown - _soft_place(place, height, width)).sum(axis=2) for place in world.PLACES])
    return world.PLACES[int(errors[:, outside].sum(axis=1).argmin())]


def _soft(image: Image) -> NDArray[np.int16]:
    """Blurred, and every `SOFT_PX`-th pixel of it."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), SOFT_PX)[::SOFT_PX, ::SOFT_PX].astype(np.int16))


@functools.cache
def _soft_place(place: str, height: int, width: int) -> NDArray[np.int16]:
    return _soft(drawing.background(place, height, width))


def _outline(mask: Mask) -> Outline:
    """The largest blob of the hero's colour without holes: 1 inside.

    Eyes are holes in it; those of a triangle reach its edge and cut it in two, so gaps narrower than an eye are closed.
    """
    wide = cv2.copyMakeBorder(mask.astype(np.uint8), EYE_PX, EYE_PX, EYE_PX, EYE_PX, cv2.BORDER_CONSTANT)
    eye = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (EYE_PX, EYE_PX))
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, eye)[EYE_PX:-EYE_PX, EYE_PX:-EYE_PX]
    blob = _largest_blob(closed > 0).astype(np.uint8)
    contours, _ = cv2.findContours(blob, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(blob), contours, -1, 1, -1), np.uint8)


def _centred(values: NDArray[np.generic], outline: Outline) -> Patch:
    """`values` (h w) with the filled outline's middle in the middle and its area scaled to one → (T T)."""
    ys, xs = np.nonzero(outline)
    scale = 0.5 * TEMPLATE_SIZE_PX / np.sqrt(len(xs))
    middle = TEMPLATE_SIZE_PX / 2 - 0.5
    move = np.array([(scale, 0, middle - scale * xs.mean()), (0, scale, middle - scale * ys.mean())])
    drawn = cv2.warpAffine(values.astype(np.float32), move, (TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX))
    return np.asarray(drawn, np.float32)


def _patch(chroma: NDArray[np.int16], outline: Outline) -> Patch:
    """The hero's colourfulness, 0 (eyes and all around) … 1 (its most vivid tenth), in the middle → (T T)."""
    full = max(float(np.quantile(chroma[outline > 0], 0.9)), 1.0)
    return _centred(np.minimum(chroma.astype(np.float32) / full, 1.0) * outline, outline)


def _misfits(patch: Patch, native_height: int) -> NDArray[np.float32]:
    """Mean squared differences from the drawings at every angle, of the size that fits best → (shapes angles)."""
    drawn, square = _drawings(native_height)
    pixels = patch.ravel()
    difference = (square - 2 * (drawn @ pixels) + pixels @ pixels) / len(pixels)  # (shapes sizes angles)
    return np.asarray(difference.reshape(len(world.SHAPES), len(DRAWN_RADII), ANGLES).min(axis=1), np.float32)


@functools.cache
def _drawings(native_height: int) -> tuple[Patch, NDArray[np.float32]]:
    """Patches of every shape at every size and angle, `native_height` px high, and the sums of their squares.

    (shapes sizes angles, T T) and (shapes sizes angles,)
    """
    angles = np.arange(ANGLES) * 2 * np.pi / ANGLES
    drawn = [
        _drawn_hero(shape, radius, float(angle), native_height).ravel()
        for shape in world.SHAPES
        for radius in DRAWN_RADII
        for angle in angles
    ]
    patches = np.stack(drawn)
    return patches, np.asarray(np.square(patches).sum(axis=1), np.float32)


def _drawn_hero(shape: str, radius: float, angle: float, native_height: int) -> Patch:
    """Patch of a hero on grey, drawn large and shrunk like footage: drawn small, its eyes would come out otherwise."""
    tall = max(PROBE_SIZE_PX, native_height)
    canvas = np.full((tall, tall, 3), 160, np.uint8)
    drawing.draw_hero(canvas, shape, world.COLOURS[0], 0.5, 0.5, radius, angle)
    image = _resize(np.asarray(cv2.resize(canvas, (native_height,) * 2, interpolation=cv2.INTER_AREA), np.uint8))
    chroma = _chroma(image)
    return _patch(chroma, _outline(chroma >= MIN_CHROMA))
