"""Frames in, one H.264 file out (PyAV); memory holds one frame at a time."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from nuwa.hierarchy import NuwaError


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: float, upscale: int = 1) -> int:
    """Write `frames`, each uint8 (h w 3) RGB, and return how many there were.

    `upscale` repeats every pixel that many times in both directions: yuv420p halves the resolution of colour,
    which small frames cannot afford. The file appears under its name only when it is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"_{os.getpid()}_{path.name}")
    try:
        count = _encode(partial, frames, Fraction(fps).limit_denominator(1001), upscale)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def check_size(height: int, width: int, upscale: int) -> None:
    """Raise NuwaError when frames of height × width px cannot be written at this scale."""
    if upscale < 1:
        raise NuwaError(f"upscale {upscale} leaves no pixels; give 1 or more")
    if height * upscale % 2 or width * upscale % 2:
        raise NuwaError(f"frames of {width}×{height} px, upscale {upscale}: H.264 needs even sizes; upscale by 2")


def _encode(path: Path, frames: Iterable[np.ndarray], rate: Fraction, upscale: int) -> int:
    count = 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "medium"})
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            if count == 0:
                check_size(frame.shape[0], frame.shape[1], upscale)
                stream.height, stream.width = frame.shape[0] * upscale, frame.shape[1] * upscale
            image = np.repeat(np.repeat(frame, upscale, axis=0), upscale, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            count += 1
        if count == 0:
            raise NuwaError(f"no frame to write to {path.name}; give at least one")
        container.mux(stream.encode(None))
    return count
