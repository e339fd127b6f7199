"""From rows back to records: clips of a video put together again, and the row of an input that never had any."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from curation.records import Row, VideoRecord, video_id_of
from curation.schema import clips_schema


def collect(rows: Iterable[Row], dim: int, stages: Mapping[str, str]) -> Iterator[VideoRecord]:
    """Put clips, which arrive in any order and among other videos', back together; complete videos are passed on."""
    names = clips_schema(dim).names
    videos: dict[str, Row] = {}
    clips: dict[str, list[Row]] = {}
    for row in rows:
        uri = row["uri"]
        if row["clip_id"] is None:
            videos[uri] = json.loads(row["video"])
        else:
            clips.setdefault(uri, []).append(row)
        if uri in videos and len(clips.get(uri, [])) == videos[uri]["num_clips"]:
            yield _record(videos.pop(uri), clips.pop(uri, []), names, stages)
    incomplete = sorted({*videos, *clips})
    assert not incomplete, f"rows of {incomplete[:3]} were lost between operators"


def _record(video: Row, rows: list[Row], names: Sequence[str], stages: Mapping[str, str]) -> VideoRecord:
    ordered = sorted(rows, key=lambda row: row["clip_index"])
    errors = [error for row in ordered for error in json.loads(row["errors"] or "[]")]
    clips = [{name: _listed(row[name]) for name in names} for row in ordered]
    return VideoRecord(video, clips, [*errors, *video_errors(video)], dict(stages))


def _listed(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def video_errors(video: Row) -> list[Row]:
    """The row of `errors` that belongs to a video that did not end well."""
    if video.get("error_type") is None:
        return []
    what = (video["error_stage"], video["error_type"], video["error_message"])
    row = error_row(video["video_id"], video["source_uri"], None, *what)
    return [{**row, "attempt": video.get("attempts") or 1}]


def error_row(video_id: str | None, uri: str, clip_id: str | None, stage: str, kind: str, message: str) -> Row:
    """A row of `errors`."""
    return {
        "video_id": video_id,
        "source_uri": uri,
        "clip_id": clip_id,
        "stage": stage,
        "error_type": kind,
        "error_message": " ".join(message.split())[:500],
        "attempt": 1,
        "occurred_at": datetime.now(UTC).isoformat(),
    }


def unreadable(uri: str) -> VideoRecord:
    """The end of an input whose bytes could not be read when it was listed."""
    error = {
        "error_stage": "input",
        "error_type": "OSError",
        "error_message": f"{uri}: cannot be read: see to the file and run the command again with --retry-failed",
    }
    video = {**_ended(uri, None, "failed"), **error}
    return VideoRecord(video, [], video_errors(video))


def duplicate(uri: str, sha256: str, size_bytes: int | None) -> VideoRecord:
    """The end of an input whose bytes another input has as well."""
    return VideoRecord({**_ended(uri, sha256, "duplicate"), "size_bytes": size_bytes})


def _ended(uri: str, sha256: str | None, status: str) -> Row:
    return {
        "video_id": video_id_of(sha256, uri),
        "source_uri": uri,
        "source_sha256": sha256,
        "status": status,
        "num_clips": 0,
        "attempts": 1,
        "finished_at": datetime.now(UTC).isoformat(),
    }
