"""Images and videos of the user as frames of the model's size: read, checked, cropped where that was asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from PIL import Image, ImageOps

from nuwa.generate.mp4 import exact_rate
from nuwa.hierarchy import NuwaError

Picture = npt.NDArray[np.uint8]
Fit = Literal["exact", "scale", "crop"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Size:
    """Size of the model's frames in px, and what becomes of pictures of another one."""

    height: int
    width: int
    fit: Fit = "exact"

    def fitted(self, image: Image.Image, name: str) -> Picture:
        """uint8 (H W 3). Raises NuwaError for another size, or for another aspect where it is to be scaled only."""
        if image.size == (self.width, self.height):
            return np.asarray(image)
        sizes = f"{name} is {image.width}×{image.height} px, the model makes {self.width}×{self.height}"
        if self.fit == "exact":
            raise NuwaError(
                f"{sizes}; give one of that size, --fit scale to scale one of the same aspect, "
                "or --fit crop to scale it and cut off what sticks out"
            )
        if self.fit == "scale" and image.width * self.height != image.height * self.width:
            raise NuwaError(f"{sizes}, another aspect; crop it, or give --fit crop to have cut off what sticks out")
        return np.asarray(ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS))


def read_image(path: Path, size: Size | None) -> Picture:
    """One image as uint8 (H W 3) RGB, upright; None is its own size. NuwaError naming a file that cannot be read."""
    try:
        with Image.open(path) as image:
            upright = _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise NuwaError(f"there is no image {path}; give a PNG or JPEG file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NuwaError(f"image {path} cannot be read ({error}); give a PNG or JPEG file") from error
    return np.asarray(upright) if size is None else size.fitted(upright, f"image {path}")


def read_video(path: Path, fps: float, size: Size | None, most: int | None = None) -> Iterator[Picture]:
    """A video at `fps`, each frame uint8 (H W 3) RGB: at every time the picture that is on the screen then.

    size: of the pictures, None = their own

    Reads while pictures are taken, until there were `most` of them, if that is given. NuwaError naming the file when
    it cannot be read, or has none.
    """
    if not path.is_file():
        raise NuwaError(f"there is no video {path}; give an mp4, or any other file that FFmpeg reads")
    count = 0
    try:
        with av.open(str(path)) as container:
            for frame in islice(_resampled(container, exact_rate(fps)), most):
                image = frame.to_image()
                yield np.asarray(image) if size is None else size.fitted(image, f"video {path}")
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise NuwaError(f"video {path} cannot be read ({error}); convert it to mp4") from error
    if count == 0:
        raise NuwaError(f"video {path} has no picture; give a file with a video stream that plays")


class VideoPictures:
    """The pictures of `read_video` by number, of which one at a time is in memory.

    The file is read on from the last picture that was asked for, or again from its start for an earlier one; so it is
    read once by who takes them in order. NuwaError when the file cannot be read, or has become shorter.
    """

    def __init__(self, path: Path, fps: float, size: Size, most: int | None = None) -> None:
        self._path, self._fps, self._size = path, fps, size
        self._count = sum(1 for _ in read_video(path, fps, size, most))
        self._reader = iter(self)
        self._read = 0  # pictures that the reader has given
        self._last: Picture | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Picture]:
        count = 0
        for picture in read_video(self._path, self._fps, self._size, self._count):
            yield picture
            count += 1
        if count < self._count:
            raise NuwaError(f"video {self._path} has become shorter while it was read; give the same command again")

    def __getitem__(self, number: int) -> Picture:
        if not 0 <= number < self._count:
            raise IndexError(number)
        if self._last is None or number < self._read - 1:
            self._reader, self._read = iter(self), 0
        while self._read <= number:
            self._last = next(self._reader)
            self._read += 1
        assert self._last is not None
        return self._last


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB. Pillow would cut values of 16 bits off at 255. ValueError for values beyond 16 bits."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values, {values.min():g} to {values.max():g}, are not those of 8 or 16 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")


def _resampled(container: InputContainer, fps: Fraction) -> Iterator[av.VideoFrame]:
    """The frames shown at 0, 1/fps, 2/fps and so on, until the last one has been shown as long as the one before."""
    shown: av.VideoFrame | None = None
    start, shown_at, lasts, count = Fraction(0), Fraction(0), 1 / fps, 0
    for frame in container.decode(video=0) if container.streams.video else ():
        time = (frame.pts or 0) * Fraction(frame.time_base or 0)
        if shown is None:
            start = time
        else:
            lasts = time - start - shown_at
            while count / fps < time - start:
                yield shown
                count += 1
        shown, shown_at = frame, time - start
    while shown is not None and count / fps < shown_at + lasts:
        yield shown
        count += 1
