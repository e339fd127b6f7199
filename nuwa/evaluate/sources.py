"""Videos to judge, before any is decoded: files of a folder or runs of a dataset, their size, rate and prompts."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image, UnidentifiedImageError

from nuwa.data.runs import Run, read_runs
from nuwa.hierarchy import NuwaError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif", ".m4v")
_PNG_FRAME = re.compile(r"frame-(\d{6})\.png")
PNG_FPS = 8.0
"""Rate of a folder of images whose record does not tell."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video: a file, or a folder of frame-000000.png and so on.

    num_frames: at `fps`, its own rate. prompts: one per frame, empty when unknown.
    window_length, depth: of the windows that generated it, None for all other videos.
    """

    path: Path
    height: int
    width: int
    fps: float
    num_frames: int
    prompts: tuple[str, ...] = ()
    window_length: int | None = None
    depth: int | None = None

    def prompt(self, frame: int) -> str:
        """Prompt of a frame; the last one goes on past the end."""
        return self.prompts[min(frame, len(self.prompts) - 1)] if self.prompts else ""


@dataclass(frozen=True)
class Footage:
    """All videos of one set, and those that could not be read, each with the reason."""

    path: Path
    kind: str
    sources: tuple[Source, ...]
    skipped: tuple[tuple[str, str], ...]


class UnreadableVideoError(NuwaError):
    """A file that is no video, or a damaged one."""


def find_footage(path: Path, what: str) -> Footage:
    """Every video of a dataset folder (its runs) or of any other folder, in the order of their names.

    what: the option that gave the path. Names that begin with `_` or `.` are unfinished and left out. Raises NuwaError
    when there is none that can be read.
    """
    if not path.is_dir():
        raise NuwaError(f"{what} {path} is not a folder; give a folder of videos or a dataset made by pipelines.curate")
    if (path / "runs").is_dir() and (path / "clips").is_dir():
        return Footage(path, "runs of a dataset", tuple(_of_run(run) for run in read_runs(path)), ())
    files = _videos_below(path)
    if not files:
        listed = " ".join(VIDEO_SUFFIXES)
        raise NuwaError(f"{what} {path} holds no video ({listed}, or folders of frame-000000.png); give another folder")
    found, skipped = list[Source](), list[tuple[str, str]]()
    for file in files:
        try:
            found.append(_of_images(file) if file.is_dir() else _of_file(file))
        except UnreadableVideoError as error:
            skipped.append((str(file.relative_to(path)), str(error)))
    if not found:
        raise NuwaError(f"{what} {path}: none of {len(files)} videos can be read, the first because {skipped[0][1]}")
    return Footage(path, "video files", tuple(found), tuple(skipped))


def _videos_below(path: Path) -> list[Path]:
    inside = sorted(p for p in path.rglob("*") if not any(part[0] in "._" for part in p.relative_to(path).parts))
    folders = {p.parent for p in inside if _PNG_FRAME.fullmatch(p.name)}
    return sorted(folders | {p for p in inside if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()})


def _of_run(run: Run) -> Source:
    prompts = tuple(run.prompt(frame) for frame in range(run.num_frames))
    return Source(
        path=run.path,
        height=run.height,
        width=run.width,
        fps=run.train_fps,
        num_frames=run.num_frames,
        prompts=prompts if any(prompts) else (),
    )


def _of_file(path: Path) -> Source:
    """Size, rate and number of frames from the header, or by counting packets; nothing is decoded."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideoError(f"{path} has no video stream")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            count = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
            height, width = stream.codec_context.height, stream.codec_context.width
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideoError(f"{path} cannot be decoded ({error})") from error
    if not rate or not count or not height:
        raise UnreadableVideoError(f"{path} holds no frames")
    return _with_record(path, height, width, Fraction(rate), count)


def _of_images(folder: Path) -> Source:
    numbers = sorted(int(m[1]) for p in folder.iterdir() if (m := _PNG_FRAME.fullmatch(p.name)))
    if numbers != list(range(len(numbers))):
        raise UnreadableVideoError(f"{folder} lacks some of frame-000000.png to {numbers[-1]:06d}")
    try:
        with Image.open(folder / "frame-000000.png") as image:
            width, height = image.size
    except (OSError, UnidentifiedImageError) as error:
        raise UnreadableVideoError(f"{folder} cannot be decoded ({error})") from error
    return _with_record(folder, height, width, None, len(numbers))


def _with_record(path: Path, height: int, width: int, rate: Fraction | None, num_frames: int) -> Source:
    record = read_record(path.with_suffix(".json"))
    prompts = record.get("prompts", [])
    fps = float(rate) if rate else float(record.get("fps", PNG_FPS))
    return Source(
        path=path,
        height=height,
        width=width,
        fps=fps,
        num_frames=num_frames,
        prompts=tuple(map(str, prompts)),
        window_length=record.get("window_length"),
        depth=record.get("depth"),
    )


def read_record(path: Path) -> dict[str, Any]:
    """What pipelines.generate wrote beside a video; empty when there is nothing. NuwaError when it is damaged."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NuwaError(f"record {path} cannot be read ({error}); restore it, or remove it") from error
    prompts = record.get("prompts", []) if isinstance(record, dict) else None
    if not isinstance(prompts, list):
        raise NuwaError(f"{path} is no record of pipelines.generate: it has no list of prompts; remove it")
    return record


def common(values: Sequence[tuple[object, Source]], what: str, remedy: str) -> object:
    """The value that all sources share. NuwaError naming two that differ, and the remedy."""
    first, source = values[0]
    for value, other in values:
        if value != first:
            raise NuwaError(f"{what} differs: {first} in {source.path.name}, {value} in {other.path.name}; {remedy}")
    return first
