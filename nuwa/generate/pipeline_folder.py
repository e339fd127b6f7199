"""A pipeline folder on disk: written whole, put in place at once, read as one state of it."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import logging
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nuwa.generate.folder_checks import CONFIGS, INDEX, class_name_of, components, read_json
from nuwa.generate.folder_pipeline import FolderPipeline
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import NuwaError

T = TypeVar("T")
P = TypeVar("P", bound=FolderPipeline)

_READS = 5
"""Times a folder is read that keeps changing meanwhile."""


def save_pipeline(pipe: FolderPipeline, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a complete pipeline folder under a temporary name, then put it in place of `folder`.

    `dtype` is the type of the weights on disk; the pipeline in memory keeps its own. Where the file system can
    exchange two folders, `folder` is there at every moment; readers come by either the old or the new one.
    Raises NuwaError when there is no room; `folder` is then as it was.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / INDEX).is_file() and (_is_filled(folder)):
        raise NuwaError(f"{folder} exists and is no pipeline folder; name a new folder, or remove this one")
    folder = folder.resolve() if folder.is_symlink() else folder
    fresh = folder.parent / f"_{folder.name}.new-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _save_parts(pipe, fresh)
        _forget_origin(fresh)
        if dtype is not None:
            _cast_weights(fresh, dtype)
        open_to_readers(fresh)
        _put_in_place(fresh, folder)
    except (OSError, SafetensorError) as error:
        raise NuwaError(f"pipeline folder {folder} cannot be written ({error}); make room or name another") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save_parts(pipe: FolderPipeline, folder: Path) -> None:
    """Every component in a folder of its own."""
    try:
        pipe.save_pretrained(folder)
    except Exception as error:  # the tokenizer has no class of its own for a file it cannot write
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error


def load_pipeline(folder: str | Path, *, weights_sha256: str | None = None) -> NuwaXLPipeline:
    """Read a pipeline folder into float32 weights on the CPU, in evaluation mode.

    A folder that changes meanwhile is read again, so that its parts belong together. `weights_sha256` is what
    `weights_fingerprint` said of the folder earlier: these weights, or none.
    Raises NuwaError, one line naming the file, when something is missing, cut short or does not fit.
    """
    return read_pipeline(NuwaXLPipeline, Path(folder), weights_sha256)


def read_pipeline(kind: type[P], folder: Path, weights_sha256: str | None = None) -> P:
    """`load_pipeline` for a folder of the pipeline class `kind`."""

    def read() -> tuple[P, str | None]:
        return _read(kind, folder), None if weights_sha256 is None else _fingerprint(folder, kind.__name__)

    pipe, found = _in_one_state(folder, read)
    if found != weights_sha256:
        raise NuwaError(
            f"the pipeline at {folder} has changed since this video was begun; put the one there that it was begun "
            "with to go on, or give another --output to begin again with the new one"
        )
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    return pipe


@dataclass(frozen=True)
class StoredPipeline:
    """What a pipeline folder says of itself without loading its weights; the sizes are those of `NuwaXLPipeline`."""

    folder: Path
    weights_sha256: str
    window_length: int
    train_fps: float
    height: int
    width: int


def stored_pipeline(folder: str | Path) -> StoredPipeline:
    """The sizes and the fingerprint of a pipeline folder, of one state of it.

    Raises NuwaError when there is none or its index is damaged; whether the weights fit shows when they are loaded.
    """
    return stored_as(NuwaXLPipeline, Path(folder))


def stored_as(kind: type[FolderPipeline], folder: Path) -> StoredPipeline:
    """`stored_pipeline` for a folder of the pipeline class `kind`."""

    def read() -> StoredPipeline:
        return StoredPipeline(folder, _fingerprint(folder, kind.__name__), **_sizes(kind, folder / INDEX))

    return _in_one_state(folder, read)


def stored_class(folder: str | Path) -> str | None:
    """Class of the pipeline in a folder. NuwaError when there is none or its index is damaged."""
    folder = Path(folder)
    return _in_one_state(folder, lambda: class_name_of(folder))


def weights_fingerprint(folder: str | Path, class_name: str = NuwaXLPipeline.__name__) -> str:
    """SHA-256 over names and bytes of the weights and configurations of a pipeline folder, of one state of it.

    Files of the tokenizer are left out: transformers writes its last call into them, and the vocabulary goes with
    the text encoder.
    """
    folder = Path(folder)
    return _in_one_state(folder, lambda: _fingerprint(folder, class_name))


def _fingerprint(folder: Path, class_name: str) -> str:
    digest = hashlib.sha256()
    for name in sorted(components(folder, class_name)):
        weights = (folder / name).rglob("*.safetensors")
        for path in sorted([*weights, *(folder / name).glob("*config.json")]):
            if path.name != "tokenizer_config.json":
                digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(_file_digest(path))
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    """SHA-256 of a file of any size, a piece of it in memory at a time."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise NuwaError(
            f"{path} cannot be read ({error.strerror or error}); copy or train this pipeline again"
        ) from error


def _sizes(kind: type[FolderPipeline], index: Path) -> dict[str, Any]:
    """The numbers in the index of a pipeline folder; those it lacks are the defaults of the pipeline."""
    entries, known = read_json(index), signature(kind.__init__).parameters
    sizes = {name: entries.get(name, known[name].default) for name in ("window_length", "train_fps", "height", "width")}
    for name, size in sizes.items():
        if not isinstance(size, int | float if name == "train_fps" else int) or size <= 0:
            raise NuwaError(f"{index}: {name} is {size!r}, which is no size; copy or train this pipeline again")
    return sizes


def _read(kind: type[P], folder: Path) -> P:
    logging.disable_progress_bar()
    try:
        # low_cpu_mem_usage would leave weights that a file lacks without a value, and fail on them by another name
        return kind.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    finally:
        logging.enable_progress_bar()


def _in_one_state(folder: Path, read: Callable[[], T]) -> T:
    """What `read` returns, from one state of `folder`: read again where it changed meanwhile."""
    problem = NuwaError(
        f"the pipeline at {folder} changed {_READS} times while it was read; give the same command again when it stays"
    )
    for _ in range(_READS):
        before = _state(folder)
        try:
            result = read()
        except NuwaError as error:
            if before == _state(folder) and (before or not _is_being_replaced(folder)):
                raise
            problem = error
        else:
            if before == _state(folder):
                return result
        time.sleep(0.05)
    raise problem


def _state(folder: Path) -> list[tuple[Path, int, int, int, int]]:
    """Tells one state of the folder from the next, also where single files are written anew; empty without a folder."""
    try:
        paths = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
    except FileNotFoundError:  # a folder that is going while it is listed
        return []
    return [(path, *stamp) for path in paths if (stamp := _stamp(path))]


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Which file is there, its size and the time it was last written."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _is_being_replaced(folder: Path) -> bool:
    return next(folder.parent.glob(f"_{folder.name}.*-*"), None) is not None


def open_to_readers(folder: Path) -> None:
    """Files below a new folder may be read by whom it is open to; safetensors shuts them to all but their owner.

    A file system that knows no such permissions keeps its own.
    """
    wanted = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and wanted & 0o444 & ~path.stat().st_mode:
            with suppress(OSError):
                path.chmod(wanted)


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`; what was there before is then at `fresh`, or gone."""
    if not folder.exists():
        fresh.rename(folder)
    elif not _exchange(fresh, folder):
        stale = folder.parent / f"_{folder.name}.old-{os.getpid()}"
        folder.rename(stale)
        fresh.rename(folder)  # between these two there is no `folder`: `load_pipeline` waits for it
        shutil.rmtree(stale, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders at once (Linux, renameat2); False where system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _is_filled(folder: Path) -> bool:
    return not folder.is_dir() or next(folder.iterdir(), None) is not None


def _forget_origin(folder: Path) -> None:
    """Drop the path that components were read from: it means nothing elsewhere."""
    for path in (path for name in (INDEX, *CONFIGS) for path in folder.rglob(name)):
        entries = read_json(path)
        kept = {key: value for key, value in entries.items() if key not in ("_name_or_path", "name_or_path")}
        if kept != entries:
            path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8")


def _cast_weights(folder: Path, dtype: torch.dtype) -> None:
    for path in sorted(folder.rglob("*.safetensors")):
        tensors = load_file(path)
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        save_file(cast, path, metadata={"format": "pt"})
