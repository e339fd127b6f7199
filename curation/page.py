"""One self-contained HTML page: no file, font or script from elsewhere, light or dark as the reader's system is."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange


@dataclass(frozen=True)
class Section:
    """A part of the page; `body` is HTML, `title` and `note` are text."""

    anchor: str
    title: str
    note: str
    body: str


def render(title: str, subtitle: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The whole page. `facts` are (figure, what it counts), shown large at the top.

    The content security policy forbids every request: what is not in the file cannot be shown.
    """
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    tiles = "".join(f"<div><b>{escape(figure)}</b><span>{escape(name)}</span></div>" for figure, name in facts)
    parts = "".join(
        f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>'
        f'<p class="note">{escape(section.note)}</p>{section.body}</section>'
        for section in sections
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>{escape(title)}</title>
<style>{_beside("page.css")}</style></head>
<body><header><div class="wide"><h1>{escape(title)}</h1><p>{escape(subtitle)}</p>
<div class="facts">{tiles}</div></div></header>
<nav><div class="wide">{links}</div></nav><main class="wide">{parts}</main>
<script>{_beside("page.js")}</script></body></html>
"""


def picture(image: np.ndarray, quality: int = 82) -> str:
    """Data URI of an image, uint8 (h w 3) RGB, as JPEG."""
    done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, f"JPEG of an image {image.shape} {image.dtype}"
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def strip(images: Sequence[np.ndarray], height_px: int) -> str:
    """Data URI of images side by side, each scaled to `height_px`; small ones keep hard pixel edges."""
    return picture(np.concatenate([_scaled(image, _width(image, height_px), height_px) for image in images], axis=1))


def sheet(images: Sequence[np.ndarray], height_px: int) -> str:
    """Data URI of four images, two by two, each scaled to `height_px` and to the shape of the first one; the last one
    fills empty places.
    """
    width_px = _width(images[0], height_px)
    four = [_scaled(image, width_px, height_px) for image in (*images, *[images[-1]] * 3)][:4]
    return picture(rearrange(np.stack(four), "(row column) h w c -> (row h) (column w) c", row=2))


def _width(image: np.ndarray, height_px: int) -> int:
    return max(1, round(image.shape[1] * height_px / image.shape[0]))


def _scaled(image: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    way = cv2.INTER_AREA if image.shape[0] >= height_px else cv2.INTER_NEAREST
    return cv2.resize(image, (width_px, height_px), interpolation=way)


_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")
