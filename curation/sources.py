"""Which videos there are: a folder, a glob, a list file or one video, here or on any pyarrow file system."""

import fnmatch
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from curation.config_error import CurationError
from curation.store import StoreError, file_system, normal_place

VIDEO_SUFFIXES: tuple[str, ...] = (
    ".3gp",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".mxf",
)
VIDEO_SUFFIXES += (".ogv", ".ts", ".vob", ".webm", ".wmv")
LONGEST_LIST_BYTES = 512 << 20
_WILDCARDS = frozenset("*?[")


class InputError(CurationError):
    """There is nothing to curate at the place given."""


@dataclass(frozen=True)
class Source:
    """One input as listed. `size_bytes` and `modified_ns` tell whether it changed; null when it cannot be looked up."""

    uri: str
    size_bytes: int | None
    modified_ns: int | None


def list_sources(place: str) -> list[Source]:
    """All videos at `place`, sorted by URI: DIR (searched below), GLOB, a list file (URIs or paths) or a video.

    Raises InputError when the place is missing or holds no file with the suffix of a video.
    """
    place = normal_place(place)
    files, path = _opened(place)
    try:
        found = _found(files, path, place)
    except UnicodeDecodeError as error:
        name = error.object.decode(errors="backslashreplace")
        raise InputError(f"input {place} holds a file whose name is not UTF-8 ({name}): rename it") from error
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"input {place} cannot be read ({reason}): check that it exists and that you may read it"
        ) from error
    if not found:
        raise InputError(f"input {place} holds no video ({_suffixes()}): give a place that does with --input")
    prefix = place[: -len(path)] if "://" in place else ""
    sources = {item if isinstance(item, Source) else _source(item, prefix) for item in found}
    if all(source.size_bytes == 0 for source in sources):
        raise InputError(f"input {place}: all {len(sources)} video files are empty (0 bytes): copy them again")
    return sorted(sources, key=lambda source: source.uri)


def _found(files: fs.FileSystem, path: str, place: str) -> Sequence["fs.FileInfo | Source"]:
    info = files.get_file_info(path)
    if info.type == fs.FileType.Directory:
        return _videos(files.get_file_info(fs.FileSelector(path, recursive=True)))
    if info.type == fs.FileType.File:
        return [info] if is_video(path) else _listed(files, path, place)
    if _WILDCARDS & set(path):
        return _matching(files, path)
    raise InputError(f"input {place} does not exist: give a folder, a glob, a list file or a video with --input")


def is_video(path: str) -> bool:
    """Whether the name ends like a video's; hidden files (a leading dot) are not looked at."""
    name = path.rsplit("/", 1)[-1]
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def _opened(place: str) -> tuple[fs.FileSystem, str]:
    try:
        return file_system(place)
    except StoreError as error:
        raise InputError(f"input {error}") from error


def _videos(infos: Sequence[fs.FileInfo]) -> list[fs.FileInfo]:
    return [info for info in infos if info.type == fs.FileType.File and is_video(info.path)]


def _matching(files: fs.FileSystem, pattern: str) -> list[fs.FileInfo]:
    if isinstance(files, fs.LocalFileSystem):
        return _videos(files.get_file_info(glob.glob(pattern, recursive=True)))  # noqa: PTH207 (absolute patterns)
    first = min(pattern.index(mark) for mark in _WILDCARDS if mark in pattern)
    base = pattern[:first].rpartition("/")[0]
    below = files.get_file_info(fs.FileSelector(base, recursive=True))
    return [info for info in _videos(below) if fnmatch.fnmatchcase(info.path, pattern)]


def _listed(files: fs.FileSystem, path: str, place: str) -> list[Source]:
    """Lines of a list file; relative paths start at its folder. What an entry lacks (the file, a suffix that is known,
    a picture that moves) becomes a row of its own; a text none of whose lines names a video is no list.
    """
    with files.open_input_stream(path) as stream:
        data = stream.read(LONGEST_LIST_BYTES + 1)
    if len(data) > LONGEST_LIST_BYTES:
        raise InputError(f"input {place} is longer than {LONGEST_LIST_BYTES >> 20} MiB: give it in several lists")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"input {place} is neither a video ({_suffixes()}) nor a list in UTF-8") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not any(is_video(line) or "://" in line for line in entries):
        return []
    folder = place.rpartition("/")[0]
    return [_look_up(entry if "://" in entry or entry.startswith("/") else f"{folder}/{entry}") for entry in entries]


def _look_up(uri: str) -> Source:
    """An entry of a list; one that cannot be looked up stays in, and becomes a row that says so."""
    uri = normal_place(uri)
    try:
        files, path = file_system(uri)
        info = files.get_file_info(path)
    except (StoreError, OSError, pa.ArrowInvalid):
        return Source(uri, None, None)
    if info.type != fs.FileType.File:
        return Source(uri, None, None)
    return Source(uri, info.size, info.mtime_ns)


def _source(info: fs.FileInfo, prefix: str) -> Source:
    return Source(f"{prefix}{info.path}", info.size, info.mtime_ns)


def _suffixes() -> str:
    return " ".join(VIDEO_SUFFIXES)
