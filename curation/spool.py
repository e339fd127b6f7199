"""Pictures set aside in an unnamed temporary file, so that memory does not grow with the length of a video.

The file has no name: nothing remains of it when its processes end, however they end.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import IO

import numpy as np

from curation.config_error import CurationError


class SpoolError(CurationError):
    """Pictures cannot be set aside."""


@dataclass(frozen=True)
class Stored:
    """Where an array of uint8 lies in the file, bytes, and its shape."""

    offset: int
    shape: tuple[int, ...]


class PictureSpool:
    """Arrays in, arrays out, in any order. Another process that was handed the file descriptor sees the same file."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._file = _unnamed_file() if descriptor is None else os.fdopen(descriptor, "r+b", 0)
        self._end = 0

    @property
    def descriptor(self) -> int:
        """The open file's number in this process."""
        return self._file.fileno()

    def add(self, images: np.ndarray) -> Stored:
        """Set uint8 values aside."""
        content = memoryview(np.ascontiguousarray(images).reshape(-1).data)
        place = Stored(self._end, images.shape)
        while content:
            written = self._write(content)
            content, self._end = content[written:], self._end + written
        return place

    def _write(self, content: memoryview) -> int:
        try:
            return os.pwrite(self.descriptor, content, self._end)
        except OSError as error:
            raise SpoolError(_advice(error)) from error

    def read(self, place: Stored) -> np.ndarray:
        """An array as it was set aside."""
        size = int(np.prod(place.shape))
        content = bytearray()
        while len(content) < size:
            part = os.pread(self.descriptor, size - len(content), place.offset + len(content))
            if not part:
                raise SpoolError("the temporary file of pictures is shorter than was written: check the disk")
            content += part
        return np.frombuffer(content, np.uint8).reshape(place.shape)


def _unnamed_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise SpoolError(_advice(error)) from error


def _advice(error: OSError) -> str:
    return f"no room for pictures in the temporary folder ({error.strerror}): set TMPDIR to a folder on a larger disk"
