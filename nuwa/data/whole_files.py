"""Safetensors files that are whole or not there: written under a temporary name, flushed, renamed, with a checksum."""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nuwa.hierarchy import NuwaError

Tensors = Mapping[str, npt.NDArray[Any]]


class LatentsError(NuwaError):
    """A folder of latents does not hold what was asked for, or cannot be written."""


class DamagedFileError(LatentsError):
    """A file of a folder of latents is cut short or altered."""


def write_tensors(path: Path, tensors: Tensors, about: Mapping[str, object]) -> int:
    """Write `tensors` with `about` as their metadata; the size of the file in bytes.

    Raises LatentsError when the disk does not take it; a file that was there before is then as it was.
    """
    metadata = {name: json.dumps(value) for name, value in about.items()} | {"crc32": str(_checksum(tensors))}
    content = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    write_whole(path, content)
    return len(content)


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in its place when all of it is on the disk. Raises LatentsError when the disk does not take it."""
    draft = path.with_name(f"_{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise LatentsError(
            f"{path} cannot be written ({error.strerror or error}); what is finished is kept: make room there and "
            "give the same command again"
        ) from error


def read_about(path: Path) -> dict[str, Any]:
    """The metadata of a file; only its head is read, and that it has the length it should have.

    Raises DamagedFileError, naming the file.
    """
    try:
        return {name: json.loads(value) for name, value in (open_file(path).metadata() or {}).items()}
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged ({error}); {REMEDY}") from error


def open_file(path: Path) -> Any:
    """A file whose tensors are mapped into memory. Raises DamagedFileError when it is cut short, or has gone."""
    try:
        return safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(f"{path} is damaged or cut short ({error}); {REMEDY}") from error


def check_whole(path: Path) -> None:
    """Read all of a file. Raises DamagedFileError when it is not as it was written."""
    stated, file = read_about(path).get("crc32"), open_file(path)
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _checksum(tensors) != stated:
        raise DamagedFileError(f"{path} is damaged (its checksum is not {stated}); {REMEDY}")


REMEDY = "remove that file and give the command of pipelines.encode again: it makes what is missing"


def remove_drafts(folder: Path) -> None:
    """Remove what killed writers were just writing; only for the one who holds the folder."""
    for draft in folder.rglob("_*.*"):
        draft.unlink(missing_ok=True)


def _checksum(tensors: Tensors) -> int:
    """CRC-32 over names and bytes of all tensors."""
    checksum = 0
    for name in sorted(tensors):
        content = np.ascontiguousarray(tensors[name]).data.cast("B")
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return checksum
