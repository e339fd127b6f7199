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
TEMPLATE_ANGLES = 24
MIN_CHROMA = 75
MIN_HERO_FRAC = 0.008
EYE_PX = 9
"""Of a frame `PROBE_SIZE_PX` high."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a frame shows; all but `place` are None where no hero was found.

    x, y: middle of the hero in frame heights; area: of its outline filled, in squared frame heights
    patch: the hero's colourfulness, 0 (its eyes, and all around it) … 1, centred and scaled to unit area, (T T)
    """

    place: str
    colour: str | None = None
    shape: str | None = None
    x: float | None = None
    y: float | None = None
    area: float | None = None
    patch: Patch | None = field(default=None, compare=False, repr=False)


def read_frame(image: Image) -> Reading:
    """Read one (height width 3) uint8 RGB frame of any size."""
    native_height = image.shape[0]
    image = _resize(image)
    vivid = _chroma(image) >= MIN_CHROMA
    place = _nearest_place(image, vivid)
    if vivid.mean() < MIN_HERO_FRAC:
        return Reading(place=place)
    colour = _commonest_colour(image, vivid)
    outline = _outline(vivid & (_colour_index(image) == world.COLOURS.index(colour)))
    ys, xs = np.nonzero(outline)
    return Reading(
        place=place,
        colour=colour,
        shape=_nearest_shape(outline, native_height),
        x=float(xs.mean() + 0.5) / PROBE_SIZE_PX,
        y=float(ys.mean() + 0.5) / PROBE_SIZE_PX,
        area=float(outline.sum()) / PROBE_SIZE_PX**2,
        patch=_patch(image, outline),
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
        empty = _soft_place(place, height, width)
        errors.append(np.abs(soft.astype(np.int16) - empty)[outside].mean())
    return world.PLACES[int(np.argmin(errors))]


@functools.cache
def _soft_place(place: str, height: int, width: int) -> Image:
    return np.asarray(cv2.GaussianBlur(drawing.background(place, height, width), (0, 0), 3), np.uint8)


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


def _patch(image: Image, outline: Outline) -> Patch:
    """Colourfulness of the hero, see `Reading`; full where it is as vivid as its most vivid tenth."""
    chroma = _chroma(image).astype(np.float32)
    full = max(float(np.quantile(chroma[outline > 0], 0.9)), 1.0)
    return _centred(np.minimum(chroma / full, 1.0) * outline, outline)


@functools.cache
def _drawn_heroes(shape: str, native_height: int, angles: int) -> tuple[tuple[Image, Outline], ...]:
    """A shape at `angles` angles as footage shows it `native_height` pixels high, each with its outline.

    Drawn large and shrunk like footage: drawn small, the eyes would come out otherwise.
    """
    found, tall = [], max(PROBE_SIZE_PX, native_height)
    for turn in np.linspace(0, 2 * np.pi, angles, endpoint=False):
        canvas = np.full((tall, tall, 3), 160, np.uint8)
        drawing.draw_hero(canvas, shape, world.COLOURS[0], 0.5, 0.5, world.HERO_RADIUS, float(turn))
        image = _resize(np.asarray(cv2.resize(canvas, (native_height,) * 2, interpolation=cv2.INTER_AREA), np.uint8))
        found.append((image, _outline(_chroma(image) >= MIN_CHROMA)))
    return tuple(found)


@functools.cache
def turned_patches(shape: str, native_height: int, angles: int) -> Patch:
    """`Reading.patch` of a shape at `angles` angles from upright on, clockwise → (angles T T)."""
    return np.stack([_patch(image, outline) for image, outline in _drawn_heroes(shape, native_height, angles)])


@functools.cache
def _shape_templates(native_height: int) -> Patch:
    """Every shape's filled outline at every angle → (shapes angles T T)."""
    heroes = [_drawn_heroes(shape, native_height, TEMPLATE_ANGLES) for shape in world.SHAPES]
    rows = [[_centred(outline, outline) for _, outline in of_shape] for of_shape in heroes]
    return np.array(rows, np.float32)


def _nearest_shape(outline: Outline, native_height: int) -> str:
    templates = _shape_templates(native_height)
    error = np.abs(templates - _centred(outline, outline)).mean(axis=(-1, -2)).min(axis=1)
    return world.SHAPES[int(error.argmin())]
