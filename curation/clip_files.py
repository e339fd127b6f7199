"""Files of single clips: a stream copy where little is lost, short-GOP H.264 at training size otherwise.

A file is checked by decoding it before it gets its name: it shows exactly `file_num_frames` frames at the right times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from curation.config import ClipFileConfig, RunConfig
from curation.stream_copy import (
    CopyPlan,
    NotCopyableError,
    PacketTable,
    appearing,
    copy_packets,
    plan_both_ends,
    plan_copy,
    read_packets,
)
from curation.video import Frame, VideoDecodeError, decode, write_video

SLOWEST_FPS = Fraction(1, 1000)


@dataclass(frozen=True, kw_only=True)
class ClipFile:
    """The columns of `clips` about one file. `file_name` is the name alone, in the folder that the caller chose.

    All but the loss are null where no file was written.
    """

    file_name: str | None = None
    file_method: str | None = None
    file_start_s: float | None = None
    file_end_s: float | None = None
    file_num_frames: int | None = None
    file_loss_frac: float | None = None


class CopyLoss(NamedTuple):
    """Share of a clip's duration, 0..1, that a copy lacks: here, and with both ends at key frames (SVD App. C)."""

    here: float
    both_ends: float


def write_clip_file(row: dict[str, Any], path: Path, config: ClipFileConfig, runs: RunConfig) -> dict[str, Any]:
    """Write the clip of `row` (of the table `clips`) to `path` + suffix; returns the columns of `ClipFile`.

    `path` has no suffix: .mp4 is added, or .mkv to a copy whose codec mp4 does not hold. Where no file is written
    (policy none, or copy with no key frame inside the clip) all columns are null, but for a loss of 1 with policy copy.

    Raises:
        VideoDecodeError: the source is gone, damaged, or not the one that was measured; NotCopyableError, one of these,
            with policy copy only.
        ClipFileError: the file cannot be written.
    """
    if config.materialize == "none":
        return asdict(ClipFile())
    row = _plain(row)
    if config.materialize == "encode":
        return asdict(_encode(row, path, config, runs))
    largest_loss_frac = config.largest_loss_frac if config.materialize == "auto" else 1.0
    try:
        copied = _copy(row, path, largest_loss_frac)
    except NotCopyableError:
        if config.materialize == "copy":
            raise
        copied = None
    if copied is None:
        copied = ClipFile(file_loss_frac=1.0) if config.materialize == "copy" else _encode(row, path, config, runs)
    return asdict(copied)


def copy_loss(row: dict[str, Any]) -> CopyLoss:
    """What stream copy would lose of the clip of `row`, from packets alone. Raises VideoDecodeError."""
    table = _packets_of(_plain(row))
    span = (int(row["start_pts"]), int(row["end_pts"]))
    plan, snapped = plan_copy(table.packets, *span), plan_both_ends(table.packets, *span)
    length = span[1] - span[0]
    here = 1 - (plan.end_pts - plan.start_pts) / length if plan else 1.0
    return CopyLoss(here, 1 - (snapped[1] - snapped[0]) / length if snapped else 1.0)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with Python's numbers in place of numpy's, wherever it was read from."""
    counts = {name: int(row[name]) for name in ("start_pts", "end_pts", "num_frames")}
    times = {name: float(row[name]) for name in ("start_s", "end_s", "duration_s")}
    return {**row, **counts, **times}


# --- copy -----------------------------------------------------------------------------------------------------------


def _copy(row: dict[str, Any], path: Path, largest_loss_frac: float) -> ClipFile | None:
    """The copied file; None, and nothing written, where more is lost than allowed, or no key frame is inside."""
    table = _packets_of(row)
    plan = plan_copy(table.packets, row["start_pts"], row["end_pts"])
    if plan is None:
        return None
    start_s, end_s = float(plan.start_pts * table.time_base), float(plan.end_pts * table.time_base)
    end_s = row["end_s"] if plan.end_pts == row["end_pts"] else end_s
    if _loss_frac(row, start_s, end_s) > largest_loss_frac:
        return None
    name = path.with_name(path.name + table.copy_suffix)
    with appearing(name) as unfinished:
        copy_packets(table, plan, unfinished)
        _require_frames(row["source_uri"], unfinished, plan, table.time_base)
    return _clip_file(row, name, "copy", start_s, end_s, len(plan.frame_pts))


def _packets_of(row: dict[str, Any]) -> PacketTable:
    table = read_packets(row["source_uri"], row["start_pts"], row["end_pts"])
    found = table.num_frames(row["end_pts"])
    if found != row["num_frames"]:
        raise NotCopyableError(
            f"{row['source_uri']}: {found} packets where {row['num_frames']} frames of clip {row['clip_id']} were "
            "measured: give --materialize encode or auto, or curate again if the file has changed"
        )
    return table


def _require_frames(uri: str, path: Path, plan: CopyPlan, time_base: Fraction) -> None:
    """Raise NotCopyableError unless the file shows exactly the frames of the plan, each at its time."""
    tolerance_s = max(1.5e-3, float(time_base))  # Matroska counts in milliseconds
    wanted = [float((pts - plan.start_pts) * time_base) for pts in plan.frame_pts]
    try:
        found = [frame.time_s for frame in decode(str(path))]
    except VideoDecodeError as error:
        raise NotCopyableError(f"{uri}: a copy does not decode ({error}): give --materialize encode or auto") from error
    if len(found) != len(wanted) or any(abs(a - b) > tolerance_s for a, b in zip(found, wanted, strict=True)):
        raise NotCopyableError(
            f"{uri}: a copy of {len(wanted)} frames shows {len(found)}, or at other times: "
            "give --materialize encode or auto"
        )


# --- encode ---------------------------------------------------------------------------------------------------------


def _encode(row: dict[str, Any], path: Path, config: ClipFileConfig, runs: RunConfig) -> ClipFile:
    """The encoded file. Decodes from the key frame before the clip; where that fails or shows other frames than were
    measured (containers that state times wrongly), again from the beginning.
    """
    if row["start_s"] > 1.0:
        try:
            return _encode_from(row, row["start_s"], path, config, runs)
        except VideoDecodeError:
            pass
    return _encode_from(row, None, path, config, runs)


def _encode_from(
    row: dict[str, Any], from_s: float | None, path: Path, config: ClipFileConfig, runs: RunConfig
) -> ClipFile:
    fps = config.encode_fps or row["num_frames"] / row["duration_s"]
    rate = max(Fraction(fps).limit_denominator(1001), SLOWEST_FPS)
    num_frames = max(1, round(row["duration_s"] * rate))
    name = path.with_name(path.name + ".mp4")
    frames = _ClipFrames(row, from_s)
    sampled = _sampled(frames, row["start_s"], float(rate), num_frames)
    first = next(sampled, None)
    images = (frame.covering(runs.width, runs.height) for frame in chain([first] if first else [], sampled))
    with appearing(name) as unfinished:
        write_video(unfinished, images, float(rate), runs.gop_frames, runs.crf)
        frames.require_all()
    assert first is not None
    return _clip_file(row, name, "encode", first.time_s, row["end_s"], num_frames)


class _ClipFrames:
    """The decoded frames of one clip, counted while they pass; decoding begins at the key frame before `from_s`."""

    def __init__(self, row: dict[str, Any], from_s: float | None) -> None:
        self._row, self._from_s, self._count = row, from_s, 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in decode(self._row["source_uri"], self._from_s):
            if frame.pts >= self._row["end_pts"]:
                return
            if frame.pts >= self._row["start_pts"]:
                self._count += 1
                yield frame

    def require_all(self) -> None:
        """Raise VideoDecodeError unless as many frames have passed as were measured."""
        uri, clip, measured = self._row["source_uri"], self._row["clip_id"], self._row["num_frames"]
        if self._count != measured:
            raise VideoDecodeError(
                f"{uri}: {self._count} frames where {measured} of clip {clip} were measured: the file has changed, "
                "curate it again"
            )


def _sampled(frames: Iterable[Frame], start_s: float, fps: float, num: int) -> Iterator[Frame]:
    """The frames shown at start_s + (k + 1/2) / fps for k = 0 … num - 1: in the middle of the time each will be shown.

    At a clip's own rate that is every frame once, also where its container rounds times (Matroska: to milliseconds).
    Takes all of `frames`.
    """
    shown: Frame | None = None
    k = 0
    for frame in frames:
        while shown is not None and k < num and start_s + (k + 0.5) / fps < frame.time_s:
            yield shown
            k += 1
        shown = frame
    while shown is not None and k < num:
        yield shown
        k += 1


def _clip_file(row: dict[str, Any], name: Path, method: str, start_s: float, end_s: float, num_frames: int) -> ClipFile:
    return ClipFile(
        file_name=name.name,
        file_method=method,
        file_start_s=start_s,
        file_end_s=end_s,
        file_num_frames=num_frames,
        file_loss_frac=_loss_frac(row, start_s, end_s),
    )


def _loss_frac(row: dict[str, Any], start_s: float, end_s: float) -> float:
    return min(1.0, max(0.0, 1 - (end_s - start_s) / row["duration_s"]))
