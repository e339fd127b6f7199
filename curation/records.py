"""One small file per finished input, so that nothing finished is ever lost:

    manifest/videos/<shard>/<video id>-<place>.<status>.<fingerprint>.<digest>.json

The name alone says what planning a job needs: which bytes at which place, how they ended, under which settings they
were measured, and a digest of the content. Only the process that holds the dataset's lock writes here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from curation import schema
from curation.stage_graph import GRAPH
from curation.store import Store

FOLDER = "manifest/videos"
MEASURED = ("ok", "empty", "failed", "quarantined")
"""Statuses of bytes that have been looked at; the other two point to such a record or come after one."""
_HALVES = ("clip_embedding", "frame_embeddings")
Row = dict[str, Any]


@dataclass(frozen=True)
class VideoRecord:
    """All that is known of one input: its row of `videos`, its rows of `clips` (before selection) and of `errors`, and
    the fingerprints of the stages that made them.
    """

    video: Row
    clips: list[Row] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)
    stages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordFile:
    """What the name of a record says."""

    name: str
    key: str
    status: str
    measured: str
    modified_ns: int

    @property
    def video_id(self) -> str:
        """Identity of the bytes."""
        return self.key.partition("-")[0]


def record_key(video_id: str, uri: str) -> str:
    """The same bytes at two places have two records."""
    return f"{video_id}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def video_id_of(sha256: str | None, uri: str) -> str:
    """Content-based identity; of bytes that could not be read, one based on the place."""
    return schema.video_id(sha256 or hashlib.sha256(f"unreadable:{uri}".encode()).hexdigest())


class Records:
    """The records of one dataset; the list of their names is read once and kept up to date."""

    def __init__(self, store: Store, num_shards: int) -> None:
        self.store, self.num_shards = store, num_shards
        self._files: dict[str, RecordFile] | None = None

    def shard_of(self, video_id: str) -> int:
        """Fixed by content, so a video stays in its shard whatever else arrives."""
        return int(video_id[:8], 16) % self.num_shards

    def files(self) -> dict[str, RecordFile]:
        """Key → the newest record of it. (A job that was killed between writing and deleting leaves two.)"""
        if self._files is None:
            self._files = {}
            for entry in self.store.entries(FOLDER):
                place, _, file = entry.name.rpartition("/")
                if file[0] in "_." or not place or not entry.size_bytes or file.count(".") != 4:
                    continue  # unfinished, or left by a file system
                key, status, measured, _, _ = file.split(".")
                found = RecordFile(entry.name, key, status, measured, entry.modified_ns)
                if key not in self._files or self._files[key].modified_ns < found.modified_ns:
                    self._files[key] = found
        return self._files

    def by_shard(self) -> dict[int, list[RecordFile]]:
        """The records of every shard, in the order of their keys."""
        found: dict[int, list[RecordFile]] = {shard: [] for shard in range(self.num_shards)}
        for _, file in sorted(self.files().items()):
            found[self.shard_of(file.video_id)].append(file)
        return found

    def read(self, file: RecordFile) -> VideoRecord:
        """The content of a record."""
        return read_record(self.store, file.name)

    def write(self, record: VideoRecord, measured: str) -> int:
        """Keep an input's end, instead of what was known of it before. Returns its shard."""
        video, data = record.video, _to_json(record)
        key, shard = record_key(video["video_id"], video["source_uri"]), self.shard_of(video["video_id"])
        digest = hashlib.sha256(data).hexdigest()[:8]
        name = f"{FOLDER}/{shard:05d}/{key}.{video['status']}.{measured}.{digest}.json"
        self.store.write(name, data)
        before = self.files().get(key)
        if before is not None and before.name != name:
            self.store.delete(before.name)
        self.files()[key] = RecordFile(name, key, video["status"], measured, time.time_ns())
        return shard

    def supersede(self, video_id: str, uri: str) -> None:
        """The bytes of this record are no longer at their place: its row stays, its clips go."""
        file = self.files().get(record_key(video_id, uri))
        if file is None or file.status == "superseded":
            return
        old = self.read(file)
        gone = {"status": "superseded", "num_clips": 0, "num_kept": None, "finished_at": datetime.now(UTC).isoformat()}
        errors = [error for error in old.errors if error["clip_id"] is None]
        self.write(VideoRecord({**old.video, **gone}, [], errors), file.measured)

    def take_over(self, hashes: Mapping[str, str | None]) -> None:
        """Records of bytes that are no longer at their place, but lie at a listed one, move there: nothing of a file
        that was renamed is measured again.
        """
        listed = {record_key(video_id_of(sha256, uri), uri) for uri, sha256 in hashes.items()}
        gone = {file.video_id: file for file in self.files().values() if file.status in MEASURED}
        gone = {video_id: file for video_id, file in gone.items() if file.key not in listed}
        for uri in sorted(hashes):
            file = gone.pop(video_id_of(hashes[uri], uri), None)
            if file is not None:
                old = self.read(file)
                clips, errors = ([{**row, "source_uri": uri} for row in rows] for rows in (old.clips, old.errors))
                self.write(VideoRecord({**old.video, "source_uri": uri}, clips, errors, old.stages), file.measured)
                self.supersede(file.video_id, old.video["source_uri"])


def read_record(store: Store, name: str) -> VideoRecord:
    """The record in a file."""
    values = json.loads(store.read(name) or b"{}")
    values["clips"] = [
        {column: _unpacked(value) if column in _HALVES else value for column, value in clip.items()}
        for clip in values["clips"]
    ]
    return VideoRecord(**values)


def without_columns(clip: Row, stages: tuple[str, ...]) -> Row:
    """A row of `clips` without what `stages` wrote into it."""
    gone = {column for stage in stages for column in GRAPH[stage].columns}
    return {column: value for column, value in clip.items() if column not in gone}


def _to_json(record: VideoRecord) -> bytes:
    clips = [
        {column: _packed(value) if column in _HALVES else value for column, value in clip.items() if value is not None}
        for clip in record.clips
    ]
    values = {"video": record.video, "stages": record.stages, "errors": record.errors, "clips": clips}
    return json.dumps(values, default=lambda time: time.isoformat(), indent=0).encode()


def _packed(vectors: object) -> Row:
    halves = np.asarray(vectors, np.float16)
    return {"shape": list(halves.shape), "float16": base64.b64encode(halves.tobytes()).decode()}


def _unpacked(packed: Row) -> list[Any]:
    values: list[Any] = np.frombuffer(base64.b64decode(packed["float16"]), np.float16).reshape(packed["shape"]).tolist()
    return values
