"""Clips as pictures on a page: strips and sheets of their frames, and cards with captions, scores and reasons."""

import functools
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import PurePath

import numpy as np
import pandas as pd

from curation import page
from curation.video import VideoDecodeError, read_span

SCORES = {
    "duration_s": "duration, s",
    "motion_score": "motion, frame heights/s",
    "ocr_area_ratio": "text area, fraction",
    "aesthetic_score": "aesthetic score",
    "clip_similarity": "caption similarity, cosine",
}
"""Columns of the clips table that are shown, and how."""

FRAMES = 4
STRIP_HEIGHT_PX = 96
SHEET_HEIGHT_PX = 112
"""Of one frame."""


def card(row: pd.Series) -> str:
    """A clip with four frames in a row, its caption, its scores and the rules it failed."""
    reasons = reasons_of(row)
    chips = "".join(
        f'<span class="chip {_failed(axis, reasons)}" title="{name}">{re.split("[ ,]", name)[0]} {row[axis]:.3g}</span>'
        for axis, name in SCORES.items()
        if axis in row and pd.notna(row[axis])
    )
    chips += "".join(f'<span class="chip why">{escape(reason)}</span>' for reason in reasons)
    return (
        f'<article class="card clip">{_image(row, STRIP_HEIGHT_PX, page.strip)}<div class="text"><q>{caption(row)}</q>'
        f'<p class="chips">{chips}</p><em>{place(row)}</em></div></article>'
    )


def sheet(row: pd.Series) -> str:
    """Four frames of a clip, two by two, as an image element, or the reason why there are none."""
    return _image(row, SHEET_HEIGHT_PX, page.sheet)


def caption(row: pd.Series) -> str:
    """The caption as HTML text."""
    words = row["caption"]
    return escape(words) if isinstance(words, str) and words else "no caption"


def place(row: pd.Series) -> str:
    """File and time of a clip as HTML text."""
    return escape(f"{PurePath(row['source_uri']).name}  {row['start_s']:.1f} to {row['end_s']:.1f} s")


def reasons_of(row: pd.Series) -> list[str]:
    """Every rule that a clip failed."""
    reasons = row["filter_reasons"]
    return [] if reasons is None else [str(reason) for reason in reasons]


def short_name(axis: str) -> str:
    """One or two words for a column of scores."""
    return re.split(", | score", SCORES.get(axis, axis))[0]


def _failed(axis: str, reasons: Sequence[str]) -> str:
    return "bad" if any(axis in reason for reason in reasons) else ""


@functools.lru_cache(maxsize=256)
def _frames(uri: str, start_s: float, end_s: float) -> tuple[np.ndarray, ...]:
    """The middle frames of four equal parts of a clip, small, (h w 3) uint8 each. Raises VideoDecodeError."""
    step_s = (end_s - start_s) / FRAMES
    frames = read_span(uri, start_s + step_s / 2, end_s, 1 / step_s)
    images = tuple(frame.fitted(4 * STRIP_HEIGHT_PX) for frame in frames)[:FRAMES]
    if not images:
        raise VideoDecodeError(f"{uri}: no frame between {start_s:.3f} and {end_s:.3f} s")
    return images


def _image(row: pd.Series, height_px: int, arrange: Callable[[Sequence[np.ndarray], int], str]) -> str:
    try:
        frames = _frames(str(row["source_uri"]), float(row["start_s"]), float(row["end_s"]))
    except VideoDecodeError as error:
        return f'<p class="gone">no picture: {escape(str(error))}</p>'
    return f'<img decoding="async" alt="frames of the clip" src="{arrange(frames, height_px)}">'
