"""Where files are: a folder, a mount or an object store, behind the few operations that curation needs.

Places are paths or URIs. pyarrow opens its own schemes (file, s3, gs, hdfs, …; `AWS_ENDPOINT_URL` points s3 to another
server), fsspec all others. What is written appears under its name whole or not at all: a rename on file systems, one
PUT on object stores. Names that start with `_` are unfinished files, which Parquet readers skip.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
import pyarrow as pa
from pyarrow import fs

from curation.config_error import CurationError

OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems of pyarrow on which a file appears when it is complete, and that have no folders."""


class StoreError(CurationError):
    """A place that cannot be read or written: no permission, no space, no such server."""


@dataclass(frozen=True)
class Entry:
    """A file below the root of a store: name relative to it, size in bytes, time of the last change in ns."""

    name: str
    size_bytes: int
    modified_ns: int


def file_system(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path in it. Raises StoreError when no one can open such URIs."""
    if "://" not in place:
        return fs.LocalFileSystem(), place
    scheme, _, rest = place.partition("://")
    server, _, path = rest.partition("/")
    files = _arrow_file_system(f"{scheme}://{server}/")
    if files is not None:
        return files[0], f"{files[1].rstrip('/')}/{path}".rstrip("/")
    try:
        other, path = fsspec.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{place} cannot be opened ({one_line(error)}): use a path, file:// or s3://") from error
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path


@functools.lru_cache(maxsize=64)
def _arrow_file_system(root: str) -> tuple[fs.FileSystem, str] | None:
    """pyarrow's file system for `scheme://server/` and the path of its root; null for schemes it does not know."""
    try:
        return cast(tuple[fs.FileSystem, str], fs.FileSystem.from_uri(root))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    except OSError as error:
        raise StoreError(f"{root} cannot be reached ({one_line(error)}): check the name and the network") from error


def forget_file_systems() -> None:
    """Connect anew, under the environment of now."""
    _arrow_file_system.cache_clear()


def open_file(place: str) -> BinaryIO:
    """A path or URI for reading, with seek. Raises OSError as `open` does."""
    if "://" not in place:
        return Path(place).open("rb")
    files, path = file_system(place)
    return cast(BinaryIO, files.open_input_file(path))


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def normal_place(place: str | Path) -> str:
    """A place as it is compared and stored: URIs without a final slash, paths absolute, file:// as its path."""
    text = str(place).removeprefix("file://")
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


@dataclass(frozen=True)
class Store:
    """The files below `root`, an absolute path or a URI. Can travel to another process."""

    root: str

    @classmethod
    def at(cls, place: str | Path) -> Store:
        """The store at a path or URI; nothing is made or touched."""
        return cls(normal_place(place))

    def __str__(self) -> str:
        return self.root

    @property
    def folder(self) -> Path | None:
        """The root as a path of this machine; null for an object store."""
        return None if "://" in self.root else Path(self.root)

    def place(self, name: str) -> str:
        """Path or URI of a file."""
        return f"{self.root}/{name}"

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; null where there is none."""
        try:
            with open_file(self.place(name)) as file:
                return bytes(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(
                f"{self.place(name)} cannot be read ({one_line(error)}): see to permissions, name and network"
            ) from error

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        files, base = file_system(self.root)
        return bool(files.get_file_info(f"{base}/{name}").type == fs.FileType.File)

    def entries(self, folder: str) -> list[Entry]:
        """All files below `folder`, at any depth, in order of their names; unfinished ones too."""
        files, base = file_system(self.root)
        selector = fs.FileSelector(f"{base}/{folder}".rstrip("/"), recursive=True, allow_not_found=True)
        found = [info for info in files.get_file_info(selector) if info.type == fs.FileType.File]
        cut = len(base.strip("/")) + 1
        all_files = [Entry(info.path.strip("/")[cut:], info.size, info.mtime_ns) for info in found]
        return sorted(all_files, key=lambda entry: entry.name)

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Put `data` under `name`, replacing what was there. Raises StoreError, nothing half-written."""
        with self.writing(name) as path:
            path.write_bytes(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path of this machine to write to; a file there at the end appears under `name`, on an error none."""
        with self._told(name), contextlib.ExitStack() as stack:
            if self.folder is not None:
                final = self.folder / name
                final.parent.mkdir(parents=True, exist_ok=True)
                path = final.with_name(f"_{os.getpid()}_{final.name}")
            else:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / Path(name).name
            try:
                yield path
                if path.is_file():
                    self._appear(path, name)
            finally:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing_into(self, folder: str) -> Iterator[Path]:
        """A folder of this machine for a writer that makes whole files itself: they appear in `folder` of the store."""
        with self._told(folder), contextlib.ExitStack() as stack:
            if self.folder is not None:
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
                yield self.folder / folder
                return
            here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield here
            for path in sorted(here.iterdir()):
                self._appear(path, f"{folder}/{path.name}")

    def _appear(self, path: Path, name: str) -> None:
        if self.folder is not None:
            path.replace(self.folder / name)
            return
        files, base = file_system(self.root)
        data = pa.py_buffer(b"") if path.stat().st_size == 0 else pa.memory_map(str(path)).read_buffer()
        final = f"{base}/{name}"
        if files.type_name in OBJECT_STORES:
            with files.open_output_stream(final) as target:
                target.write(data)
            return
        folder, _, last = final.rpartition("/")
        files.create_dir(folder, recursive=True)
        with files.open_output_stream(f"{folder}/_{last}") as target:
            target.write(data)
        files.move(f"{folder}/_{last}", final)

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        files, base = file_system(self.root)
        with contextlib.suppress(FileNotFoundError), self._told(name):
            files.delete_file(f"{base}/{name}")

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Errors of the file system as one line that says what to do."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"{self.place(name)} cannot be written ({one_line(error)}): make room or see to the permissions, then "
                "run the same command again, or choose another --output"
            ) from error
