"""Encoding and decoding in tiles of a frame, so that memory does not grow with the resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch

Apply = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Square tiles in latent pixels: `size` on a side, neighbours sharing `overlap` of them.

    unit_in, unit_out: pixels of what goes in and of what comes out per latent pixel: (f, 1) to encode, (1, f) to decode
    """

    size: int
    overlap: int
    unit_in: int
    unit_out: int


def starts_of(total: int, size: int, overlap: int) -> list[int]:
    """First places of pieces of `size` that cover `total`; the last is moved back so that it is full."""
    last = max(0, total - size)
    return [*range(0, last, size - overlap), last]


def in_tiles(apply: Apply, video: torch.Tensor, tiling: Tiling) -> torch.Tensor:
    """`apply` tile by tile; where tiles overlap, results cross-fade linearly.

    Never exact when there is more than one tile: group normalisation and attention over pixels see the whole of what
    they are given, so a tile's contrast and colours follow the tile. A wide overlap hides where tiles meet.

    video: (b c t h w) → (b c' t h' w'), what `apply` makes of it
    """
    height, width = (side // tiling.unit_in for side in video.shape[-2:])
    tops, lefts = (starts_of(side, tiling.size, tiling.overlap) for side in (height, width))
    if len(tops) == len(lefts) == 1:
        return apply(video)
    total: torch.Tensor | None = None
    for top, left in product(tops, lefts):
        rows, columns = (_span(first, tiling.size, side) for first, side in ((top, height), (left, width)))
        tile = apply(video[..., _scaled(rows, tiling.unit_in), _scaled(columns, tiling.unit_in)])
        weight = _weight(rows, height, tiling)[:, None] * _weight(columns, width, tiling)  # h' w'
        if total is None:
            total = tile.new_zeros(*tile.shape[:-2], height * tiling.unit_out, width * tiling.unit_out)
        place = (..., _scaled(rows, tiling.unit_out), _scaled(columns, tiling.unit_out))
        total[place] += weight.to(tile) * tile
    assert total is not None
    return total


def _span(first: int, size: int, total: int) -> range:
    return range(first, min(first + size, total))


def _scaled(span: range, unit: int) -> slice:
    return slice(span.start * unit, span.stop * unit)


def _weight(span: range, total: int, tiling: Tiling) -> torch.Tensor:
    """Share of this tile at each of its places along one side (n,); shares of all tiles add up to 1."""
    shares = torch.stack([_ramps(other, total, tiling) for other in _spans(total, tiling)])  # tiles, places
    here = _scaled(span, tiling.unit_out)
    own = _ramps(span, total, tiling)
    return (own / shares.sum(dim=0))[here]


def _spans(total: int, tiling: Tiling) -> list[range]:
    return [_span(first, tiling.size, total) for first in starts_of(total, tiling.size, tiling.overlap)]


def _ramps(span: range, total: int, tiling: Tiling) -> torch.Tensor:
    """Unnormalised share along the whole side: 0 outside the tile, rising over the overlap, 1 at the frame's edges."""
    unit, fade = tiling.unit_out, tiling.overlap * tiling.unit_out
    place = torch.arange(total * unit, dtype=torch.float64)
    since, until = place - span.start * unit + 1, span.stop * unit - place
    rise = (since / (fade + 1)).clamp(0, 1) if span.start else (since > 0).double()
    fall = (until / (fade + 1)).clamp(0, 1) if span.stop < total else (until > 0).double()
    return torch.minimum(rise, fall)
