"""The dataset folder while it is being made: what is done, what is not, and how Parquet parts appear.

    DATASET/config.json          the curation config, for readers
    DATASET/{videos,clips,runs,errors}/part-00000.parquet   one part per shard and table, replaced under the same name
    DATASET/media/runs/          training videos
    DATASET/manifest/job.json    input, config, number of shards: what "the same command" means; written first
    DATASET/manifest/inputs.json size, time and content hash of every input seen
    DATASET/manifest/videos/<shard>/<key>.json   one record per finished video: nothing finished is lost
    DATASET/manifest/finished.json               digest of what the published tables were made from

Every write goes to a name that starts with `_` (Parquet readers skip those) and is then moved into place.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import schema
from curation.config import CurationConfig, CurationError, RunConfig, SelectConfig
from curation.config_json import fingerprint, from_json, to_dict, to_json
from curation.model_files import embedding_dim
from curation.sources import Source

VIDEOS_PER_SHARD = 256
SUPERSEDED = ".superseded.json"
TABLES = ("videos", "clips", "runs", "errors")
Row = dict[str, Any]


class OutputError(CurationError):
    """The output folder belongs to something else, or to another run that is still going on."""


@dataclass(frozen=True)
class VideoRecord:
    """All that is known of one input: its row of `videos`, its rows of `clips` (before selection) and of `errors`."""

    video: Row
    clips: list[Row] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)


def record_key(video_id: str, uri: str) -> str:
    """Name of the record of one input: the same bytes at two places give two records."""
    return f"{video_id}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def video_id_of(sha256: str | None, uri: str) -> str:
    """Content-based identity; of bytes that could not be read, one based on the place."""
    return schema.video_id(sha256 or hashlib.sha256(f"unreadable:{uri}".encode()).hexdigest())


def measurement_fingerprint(config: CurationConfig) -> str:
    """Hash of everything that decides what is measured; selection and runs can be applied again without measuring."""
    return fingerprint(dataclasses.replace(config, profile="", select=SelectConfig(), runs=RunConfig()))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under a temporary name beside `path`, then put it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"_{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`value` as JSON; times in ISO 8601."""
    text = json.dumps(value, default=lambda time: time.isoformat(), indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text))


@dataclass(frozen=True)
class Manifest:
    """The working state of the dataset at `root`; `embedding_dim` is the width of the column `clip_embedding`."""

    root: Path
    config: CurationConfig
    num_shards: int
    embedding_dim: int

    @classmethod
    def open(cls, root: Path, config: CurationConfig, place: str, num_inputs: int) -> "Manifest":
        """Go on with the dataset at `root`, or begin it. Raises OutputError, nothing written, when it is another's."""
        job = check_output(root, config, place)
        if new := not job:
            job = {
                "input": normal_place(place),
                "config": to_dict(config),
                "num_shards": max(1, math.ceil(num_inputs / VIDEOS_PER_SHARD)),
                "embedding_dim": embedding_dim(config.embed),
            }
        manifest = cls(root, config, int(job["num_shards"]), int(job["embedding_dim"]))
        try:
            if new:
                write_json(root / "manifest" / "job.json", job)
            manifest._complete()
        except OSError as error:
            raise OutputError(f"output {root} cannot be written ({error}): choose another --output") from error
        return manifest

    @classmethod
    def existing(cls, root: Path) -> "Manifest":
        """The dataset at `root` with the config it was made with. Raises OutputError when there is none."""
        job = _read_json(root / "manifest" / "job.json")
        if not job:
            raise OutputError(
                f"{root} is no dataset: make one with python -m pipelines.curate --input … --output {root}"
            )
        return cls(root, _config(job), int(job["num_shards"]), int(job["embedding_dim"]))

    def _complete(self) -> None:
        """What a dataset has from its first moment on: config.json and one part of every table, all readable."""
        (self.root / "manifest" / "videos").mkdir(parents=True, exist_ok=True)
        if not (self.root / "config.json").is_file():
            self._copy_config()
        for table in TABLES:
            for shard in range(self.num_shards):
                if not self.part(table, shard).is_file():
                    self.write_part(table, shard, [])

    def with_config(self, config: CurationConfig) -> "Manifest":
        """The same dataset from now on under another config, whose measuring half must be the old one's."""
        if measurement_fingerprint(config) != measurement_fingerprint(self.config):
            raise OutputError(
                f"{self.root} was measured with another config (profile {self.config.profile!r}): --reselect changes "
                "thresholds and runs only; give that profile, or curate into another --output"
            )
        path = self.root / "manifest" / "job.json"
        write_json(path, {**_read_json(path), "config": to_dict(config)})
        manifest = dataclasses.replace(self, config=config)
        manifest._copy_config()
        return manifest

    def _copy_config(self) -> None:
        text = to_json(self.config) + "\n"
        write_atomically(self.root / "config.json", lambda temporary: temporary.write_text(text))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from writing to the same dataset."""
        path = self.root / "manifest" / "lock"
        with path.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another process is curating into {self.root}: wait for it or end it") from error
            yield

    # --- inputs -----------------------------------------------------------------------------------------------------

    def known_hashes(self, sources: Iterable[Source]) -> dict[str, str | None]:
        """URI → content hash of those inputs that were hashed before and have the same size and time since."""
        seen = _read_json(self.root / "manifest" / "inputs.json")
        return {
            source.uri: seen[source.uri][2]
            for source in sources
            if source.uri in seen and seen[source.uri][:2] == [source.size_bytes, source.modified_ns]
        }

    def remember_hashes(self, sources: Iterable[Source], hashes: dict[str, str | None]) -> None:
        """Store the hashes; records of bytes that are no longer at their URI become superseded."""
        seen = _read_json(self.root / "manifest" / "inputs.json")
        for source in sources:
            old = seen.get(source.uri)
            if old and old[2] != hashes[source.uri]:
                self._supersede(video_id_of(old[2], source.uri), source.uri)
            seen[source.uri] = [source.size_bytes, source.modified_ns, hashes[source.uri]]
        write_json(self.root / "manifest" / "inputs.json", seen)

    def _supersede(self, video_id: str, uri: str) -> None:
        path = self._record_path(video_id, uri)
        if not path.is_file():
            return
        record = _read_record(path)
        video = {**record.video, "status": "superseded", "num_clips": 0, "finished_at": datetime.now(UTC)}
        write_json(path.with_suffix(SUPERSEDED), dataclasses.asdict(VideoRecord(video, [], record.errors)))
        path.unlink()

    # --- records ----------------------------------------------------------------------------------------------------

    def shard_of(self, video_id: str) -> int:
        """Fixed by content, so a video stays in its shard whatever else arrives."""
        return int(video_id[:8], 16) % self.num_shards

    def _record_path(self, video_id: str, uri: str) -> Path:
        folder = self.root / "manifest" / "videos" / f"{self.shard_of(video_id):05d}"
        return folder / f"{record_key(video_id, uri)}.json"

    def write_record(self, record: VideoRecord) -> int:
        """Keep a finished video. Returns its shard."""
        video_id, uri = record.video["video_id"], record.video["source_uri"]
        write_json(self._record_path(video_id, uri), dataclasses.asdict(record))
        return self.shard_of(video_id)

    def recorded_keys(self) -> set[str]:
        """Keys of all finished videos; a superseded one counts no longer, its bytes may come back."""
        paths = (self.root / "manifest" / "videos").glob("*/[!_]*.json")
        return {path.stem for path in paths if not path.name.endswith(SUPERSEDED)}

    def records(self, shard: int) -> list[VideoRecord]:
        """Records of a shard, in the order of their keys."""
        folder = self.root / "manifest" / "videos" / f"{shard:05d}"
        return [_read_record(path) for path in sorted(folder.glob("[!_]*.json"))]

    # --- tables -----------------------------------------------------------------------------------------------------

    def table_schema(self, table: str) -> pa.Schema:
        """The Parquet schema with the config and its hash as metadata."""
        plain = {
            "videos": schema.VIDEOS,
            "clips": schema.clips_schema(self.embedding_dim),
            "runs": schema.RUNS,
            "errors": schema.ERRORS,
        }[table]
        return plain.with_metadata({"curation_config": to_json(self.config), "fingerprint": fingerprint(self.config)})

    def part(self, table: str, shard: int) -> Path:
        """Place of the part of one shard."""
        return self.root / table / f"part-{shard:05d}.parquet"

    def write_part(self, table: str, shard: int, rows: Sequence[Row]) -> None:
        """Replace one part."""
        data = rows_to_table(rows, self.table_schema(table))
        write_atomically(self.part(table, shard), lambda temporary: pq.write_table(data, temporary, compression="zstd"))

    def publish(self, shard: int) -> None:
        """Replace the parts of a shard by what its records say; `keep` is null until selection has seen all shards."""
        records = self.records(shard)
        self.write_part("videos", shard, [record.video for record in records])
        self.write_part("clips", shard, [clip for record in records for clip in record.clips])
        self.write_part("errors", shard, [error for record in records for error in record.errors])

    # --- the end ----------------------------------------------------------------------------------------------------

    def state(self) -> Row:
        """What finished tables depend on: the records (with their content) and the config."""
        digest = hashlib.sha256()
        for path in sorted((self.root / "manifest" / "videos").glob("*/[!_]*.json")):
            digest.update(f"{path.name} {path.stat().st_mtime_ns}\n".encode())
        return {"records": digest.hexdigest(), "config": fingerprint(self.config)}

    def is_finished(self) -> bool:
        """Whether selection and runs were made from these very records and this config."""
        return _read_json(self.root / "manifest" / "finished.json") == self.state()

    def mark_finished(self) -> None:
        """Remember what the tables were made from."""
        write_json(self.root / "manifest" / "finished.json", self.state())


def check_output(root: Path, config: CurationConfig, place: str) -> Row:
    """job.json of the dataset at `root` if this command may go on with it, {} if it is free; else OutputError."""
    if root.exists() and not root.is_dir():
        raise OutputError(f"output {root} is a file: choose another --output")
    job: Row = _read_json(root / "manifest" / "job.json")
    if not job:
        if root.is_dir() and any(path.is_file() and not path.name.startswith("_") for path in root.rglob("*")):
            raise OutputError(f"output {root} holds something else: choose an empty or new folder with --output")
        return {}
    if job["input"] != normal_place(place):
        raise OutputError(
            f"output {root} was made from --input {job['input']}: give that input again, or choose another --output"
        )
    stored = _config(job)
    if measurement_fingerprint(stored) != measurement_fingerprint(config):
        raise OutputError(
            f"output {root} was made with another config (profile {stored.profile!r}, see its config.json): "
            "use that profile, or choose another --output"
        )
    if fingerprint(stored) != fingerprint(config):
        raise OutputError(
            f"output {root} has other thresholds or runs (profile {stored.profile!r}, see its config.json): "
            "apply the new ones with --reselect, or choose another --output"
        )
    return job


def normal_place(place: str) -> str:
    """`place` as it is compared between runs: URIs as they are, paths absolute."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def rows_to_table(rows: Sequence[Row], table_schema: pa.Schema) -> pa.Table:
    """Rows with keys among the schema's columns → table; absent keys become null, ISO times become timestamps."""
    columns = []
    for column in table_schema:
        values = [row.get(column.name) for row in rows]
        if pa.types.is_timestamp(column.type):
            values = [datetime.fromisoformat(value) if isinstance(value, str) else value for value in values]
        columns.append(pa.array(values, column.type))
    return pa.Table.from_arrays(columns, schema=table_schema)


def _config(job: Row) -> CurationConfig:
    return from_json(json.dumps(job["config"]), CurationConfig)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else {}


def _read_record(path: Path) -> VideoRecord:
    return VideoRecord(**json.loads(path.read_text()))
