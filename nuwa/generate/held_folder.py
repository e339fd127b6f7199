"""The folder beside an output where it is made, held by one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nuwa.hierarchy import NuwaError


@contextmanager
def held_folder(folder: Path, output: Path) -> Iterator[Path]:
    """`folder`, made when it is not there and held by this process alone, while `output` is made in it.

    The hold ends with the process, however it ends. NuwaError while another process makes `output`.
    """
    handle = _held(folder, output)
    try:
        yield folder
    finally:
        with suppress(OSError):  # windows are in it, or it went when the video was complete
            folder.rmdir()
        os.close(handle)


def _held(folder: Path, output: Path) -> int:
    """A handle of `folder`, made when it is not there, that holds it until it is closed."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise NuwaError(f"{folder} cannot be written to ({error}); give another --output") from error
        _lock(handle, output)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)  # who held it before has removed it with the video complete: another of the same name is made


def _lock(handle: int, output: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise NuwaError(f"another process is making {output}; wait for it or give another --output") from error
    except OSError:  # a file system without locks: nothing says that somebody else is at it
        return
