"""A finished video as a file: mp4, GIF or a folder of PNG images, by its name; whole or not at all.

Frames are written one by one in a folder of their own beside the output, and what is complete is moved to its name.
"""

import errno
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from nuwa.generate.mp4 import GifFile, Mp4File, exact_rate
from nuwa.hierarchy import NuwaError

Format = Literal["mp4", "gif", "png"]
SUFFIXES: dict[Format, str] = {"mp4": ".mp4", "gif": ".gif", "png": ""}
"""What the name of a file of each format ends in; PNG images lie in a folder."""
GIF_MOST_FPS = 50
"""A GIF counts hundredths of a second, and browsers slow down what shows a frame for less than two of them."""

_UNFINISHED = "unfinished"
"""Name, before the suffix, of what is being written; it lies in a folder that the program has made for itself."""


class _Sink(Protocol):
    """A file that takes images, uint8 (h w 3) RGB."""

    def write(self, image: np.ndarray) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...


class _PngFolder:
    """frame-000000.png, frame-000001.png and so on."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        path.mkdir()

    def write(self, image: np.ndarray) -> None:
        Image.fromarray(image).save(self.path / frame_name(self.count))
        self.count += 1

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def frame_name(number: int) -> str:
    """File name of a frame; a storyboard folder understands the same names."""
    return f"frame-{number:06d}.png"


def format_of(output: Path) -> Format:
    """What the name asks for. NuwaError for a suffix that is not written."""
    found = next((kind for kind, suffix in SUFFIXES.items() if suffix == output.suffix), None)
    if found is not None:
        return found
    raise NuwaError(
        f"output {output} ends in {output.suffix}; give a name that ends in .mp4 or .gif, "
        "or one without a suffix for a folder of PNG images"
    )


def check_output(output: Path, height: int, width: int, upscale: int, fps: float) -> None:
    """Raise NuwaError when frames of height × width px at `fps` cannot be written to `output` at this scale."""
    kind = format_of(output)
    if upscale < 1:
        raise NuwaError(f"upscale {upscale} leaves no pixels; give 1 or more")
    if not 0 < fps < math.inf:
        raise NuwaError(f"fps is {fps}; it must be a number above 0")
    if kind == "mp4" and (height * upscale % 2 or width * upscale % 2):
        raise NuwaError(f"frames of {width}×{height} px, upscale {upscale}: H.264 needs even sizes; upscale by 2")
    if kind == "gif" and fps > GIF_MOST_FPS:
        raise NuwaError(f"fps {fps:g}: a GIF shows at most {GIF_MOST_FPS} frames a second; give an .mp4")
    if exact_rate(fps) == 0:
        raise NuwaError(f"fps {fps:g} is less than a file can say; give 0.001 or more")


def write_video(
    path: str | Path, frames: Iterable[np.ndarray], fps: float, upscale: int = 1, work: Path | None = None
) -> int:
    """Write `frames`, each uint8 (h w 3) RGB, and return how many there were.

    `upscale` repeats every pixel that many times in both directions: yuv420p halves the resolution of colour,
    which small frames cannot afford. The output appears under its name only when it is complete. `work` is a folder of
    the caller's on the same file system, held by this process alone, where what a killed one left is written over;
    without it a new folder is made beside the output. Raises NuwaError when it cannot be written, on a full disk for
    one; errors of `frames` themselves pass through.
    """
    path = Path(path)
    count = 0
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"_{path.name}.", dir=path.parent)) if work is None else work
    partial = place / f"{_UNFINISHED}{path.suffix}"
    try:
        _remove(partial)
        with _telling(path):
            sink = _open(partial, path, fps)
        try:
            for frame in frames:
                if count == 0:
                    check_output(path, frame.shape[0], frame.shape[1], upscale, fps)
                with _telling(path):
                    sink.write(_enlarged(frame, upscale))
                count += 1
            if count == 0:
                raise NuwaError(f"no frame to write to {path.name}; give at least one")
            with _telling(path):
                sink.finish()
                _put(partial, path)
        finally:
            with suppress(OSError):  # a second complaint about the same disk
                sink.abandon()
    finally:
        _remove(partial)
        if work is None:
            shutil.rmtree(place, ignore_errors=True)
    return count


def _open(partial: Path, path: Path, fps: float) -> _Sink:
    kind = format_of(path)
    if kind == "png":
        return _PngFolder(partial)
    return Mp4File(partial, fps) if kind == "mp4" else GifFile(partial, fps)


def _put(partial: Path, path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    partial.replace(path)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with suppress(OSError):  # no such file or folder: nothing to remove
            partial.unlink()


def _enlarged(frame: np.ndarray, upscale: int) -> np.ndarray:
    return np.ascontiguousarray(np.repeat(np.repeat(frame, upscale, axis=0), upscale, axis=1))


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Errors of the file as one line about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NuwaError(
                f"the disk is full: {path} cannot be finished; free some space and give the same command again"
            ) from error
        raise NuwaError(f"{path} cannot be written ({error.strerror or error}); give another --output") from error
