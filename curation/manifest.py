"""The dataset folder while it is being made: what is done, what is not, and how Parquet parts appear.

    DATASET/config.json          the curation config, for readers
    DATASET/{videos,clips,runs,errors}/part-00000.parquet   one part per shard and table, replaced under the same name
    DATASET/media/{runs,clips}/  training videos; files of single clips where asked for
    DATASET/manifest/job.json    input, config, number of shards: what "the same command" means; written first
    DATASET/manifest/inputs.json size, time and content hash of every input seen
    DATASET/manifest/videos/     one record per finished video: nothing finished is lost
    DATASET/manifest/{runs,clips}/   how each media file was made
    DATASET/manifest/finished.json   digest of what the published tables were made from

DATASET is a folder or a URI. Every file appears under its name whole or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import schema
from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.config_json import fingerprint, from_json, to_dict, to_json
from curation.model_files import embedding_dim
from curation.records import RecordFile, Records, Row, video_id_of
from curation.sources import Source
from curation.stage_graph import fingerprints, measurement_fingerprint
from curation.store import Store, normal_place, open_file

VIDEOS_PER_SHARD = 256
LOCK = "manifest/lock"
TABLES = ("videos", "clips", "runs", "errors")


class OutputError(CurationError):
    """The output belongs to something else, or to another job that is still going on."""


@dataclass(frozen=True)
class Manifest:
    """The working state of the dataset in `store`; `embedding_dim` is the width of the column `clip_embedding`."""

    store: Store
    config: CurationConfig
    num_shards: int
    embedding_dim: int

    @classmethod
    def open(cls, store: Store, config: CurationConfig, place: str, num_inputs: int) -> Manifest:
        """Go on with the dataset in `store`, or begin it. Raises OutputError, nothing written, when it is another's."""
        job = check_output(store, config, place)
        if not job:
            job = {
                "input": normal_place(place),
                "num_shards": max(1, math.ceil(num_inputs / VIDEOS_PER_SHARD)),
                "embedding_dim": embedding_dim(config.embed),
            }
        manifest = cls(store, config, int(job["num_shards"]), int(job["embedding_dim"]))
        if "config" not in job:
            _keep_config(store, job, config)
        manifest._complete()
        return manifest

    def _complete(self) -> None:
        """One part of every table from the first moment on; where one was lost, its shard is published again."""
        there = {entry.name for table in TABLES for entry in self.store.entries(table)}
        for shard in range(self.num_shards):
            missing = [table for table in TABLES if self.part(table, shard) not in there]
            if missing:
                self.unmark_finished()
            for table in {*missing, "videos"} if missing else ():
                self.write_part(table, shard, self.table(table, []))

    @classmethod
    def existing(cls, store: Store) -> Manifest:
        """The dataset in `store` with the config it was made with. Raises OutputError when there is none."""
        job = read_json(store, "manifest/job.json")
        if not job:
            raise OutputError(
                f"{store} is no dataset: make one with python -m pipelines.curate --input … --output {store}"
            )
        return cls(store, stored_config(job), int(job["num_shards"]), int(job["embedding_dim"]))

    def adopt(self) -> None:
        """Let the dataset be under this config from now on: after everything about it has been checked."""
        _keep_config(self.store, read_json(self.store, "manifest/job.json"), self.config)

    def with_config(self, config: CurationConfig) -> Manifest:
        """The same dataset from now on under another config."""
        _keep_config(self.store, read_json(self.store, "manifest/job.json"), config)
        return Manifest(self.store, config, self.num_shards, self.embedding_dim)

    @functools.cached_property
    def records(self) -> Records:
        """One record per finished input."""
        return Records(self.store, self.num_shards)

    @functools.cached_property
    def stages(self) -> dict[str, str]:
        """Stage → fingerprint under the config."""
        return fingerprints(self.config)

    @functools.cached_property
    def measured(self) -> str:
        """The fingerprint of all stages together."""
        return measurement_fingerprint(self.config)

    # --- inputs -----------------------------------------------------------------------------------------------------

    def known_hashes(self, sources: Iterable[Source]) -> dict[str, str | None]:
        """URI → content hash of those inputs that were hashed before and have the same size and time since."""
        seen = read_json(self.store, "manifest/inputs.json")
        return {
            source.uri: seen[source.uri][2]
            for source in sources
            if source.uri in seen and seen[source.uri][:2] == [source.size_bytes, source.modified_ns]
        }

    def remember_hashes(self, sources: Iterable[Source], hashes: dict[str, str | None]) -> list[str]:
        """Store the hashes; records of bytes that have been replaced at their place become superseded.

        Returns the URIs of known bytes that cannot be read now: what is known of them stays.
        """
        seen = read_json(self.store, "manifest/inputs.json")
        unreadable = []
        for source in sources:
            old = seen.get(source.uri)
            if old and old[2] is not None and hashes[source.uri] is None:
                unreadable.append(source.uri)
                continue
            if old and old[2] != hashes[source.uri]:
                self.records.supersede(video_id_of(old[2], source.uri), source.uri)
            seen[source.uri] = [source.size_bytes, source.modified_ns, hashes[source.uri]]
        write_json(self.store, "manifest/inputs.json", seen)
        return unreadable

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

    def table(self, name: str, rows: Sequence[Row]) -> pa.Table:
        """Rows as a table of the dataset."""
        return rows_to_table(rows, self.table_schema(name))

    def part(self, table: str, shard: int) -> str:
        """Name of the part of one shard."""
        return f"{table}/part-{shard:05d}.parquet"

    def read_part(self, table: str, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One published part."""
        with open_file(self.store.place(self.part(table, shard))) as file:
            return pq.ParquetFile(file).read(columns)

    def write_part(self, table: str, shard: int, data: pa.Table) -> None:
        """Replace one part."""
        with self.store.writing(self.part(table, shard)) as path:
            pq.write_table(data, path, compression="zstd")

    def publish(self, shard: int, files: Sequence[RecordFile]) -> None:
        """Replace the parts of a shard by what its records say, unless they say so already; `keep` is null until
        selection has seen all shards.
        """
        digest = _digest(file.name for file in files)
        if self._published(shard) == digest:
            return
        tables = {name: [self.table(name, [])] for name in ("clips", "errors", "videos")}
        for file in files:  # as columns at once: embeddings as Python numbers would fill the memory
            record = self.records.read(file)
            for name, rows in (("clips", record.clips), ("errors", record.errors), ("videos", [record.video])):
                tables[name].append(self.table(name, rows))
        for name, parts in tables.items():
            data = pa.concat_tables(parts)
            self.write_part(name, shard, data.replace_schema_metadata({**data.schema.metadata, "records": digest}))

    def _published(self, shard: int) -> str | None:
        with open_file(self.store.place(self.part("videos", shard))) as file:
            digest = (pq.read_schema(file).metadata or {}).get(b"records")
        return digest.decode() if digest else None

    # --- the end ----------------------------------------------------------------------------------------------------

    def state(self) -> Row:
        """What finished tables depend on: the records (with their content) and the config."""
        names = sorted(file.name for file in self.records.files().values())
        return {"records": _digest(names), "config": fingerprint(self.config)}

    def is_finished(self) -> bool:
        """Whether selection, runs and clip files were made from these very records and this config."""
        return bool(read_json(self.store, "manifest/finished.json") == self.state())

    def unmark_finished(self) -> None:
        """From now on until `mark_finished` the tables may be of no one config."""
        self.store.delete("manifest/finished.json")

    def mark_finished(self) -> None:
        """Remember what the tables were made from."""
        write_json(self.store, "manifest/finished.json", self.state())


def check_output(store: Store, config: CurationConfig, place: str) -> Row:
    """job.json of the dataset in `store` if this command may go on with it, {} if the place is free.

    Raises OutputError when it may not.
    """
    if store.folder is not None and store.folder.exists() and not store.folder.is_dir():
        raise OutputError(f"output {store} is a file: choose another --output")
    job: Row = read_json(store, "manifest/job.json")
    if not job:
        foreign = (entry.name for entry in store.entries("") if entry.name != LOCK)
        if any(not Path(name).name.startswith("_") for name in foreign):
            raise OutputError(f"output {store} holds something else: choose an empty or new folder with --output")
        return {}
    if job["input"] != normal_place(place):
        raise OutputError(
            f"output {store} was made from --input {job['input']}: give that input again, or choose another --output"
        )
    width = embedding_dim(config.embed)
    if int(job["embedding_dim"]) != width:
        raise OutputError(
            f"output {store} holds embeddings of width {job['embedding_dim']}, the CLIP model of profile "
            f"{config.profile!r} gives {width}: choose another --output for it"
        )
    return job


def _keep_config(store: Store, job: Row, config: CurationConfig) -> None:
    if job.get("config") != to_dict(config):
        store.write("config.json", (to_json(config) + "\n").encode())
        write_json(store, "manifest/job.json", {**job, "config": to_dict(config)})


def config_of(store: Store) -> CurationConfig | None:
    """The config of the dataset in `store`; null where there is none."""
    job = read_json(store, "manifest/job.json")
    return stored_config(job) if job else None


def stored_config(job: Row) -> CurationConfig:
    """The config a dataset was made with last. Raises OutputError for one of another version of this program."""
    try:
        return from_json(json.dumps(job["config"]), CurationConfig)
    except CurationError as error:
        raise OutputError(
            f"the dataset was made by another version, with settings this one does not know ({error}); "
            "curate its footage into a new --output, or use that version"
        ) from error


def rows_to_table(rows: Sequence[Row], table_schema: pa.Schema) -> pa.Table:
    """Rows with keys among the schema's columns → table; absent keys become null, ISO times become timestamps."""
    columns = []
    for column in table_schema:
        values = [row.get(column.name) for row in rows]
        if pa.types.is_timestamp(column.type):
            values = [datetime.fromisoformat(value) if isinstance(value, str) else value for value in values]
        columns.append(pa.array(values, column.type))
    return pa.Table.from_arrays(columns, schema=table_schema)


def read_json(store: Store, name: str) -> Any:
    """The JSON value in a file, {} where there is none."""
    data = store.read(name)
    return json.loads(data) if data else {}


def write_json(store: Store, name: str, value: object) -> None:
    """`value` as JSON; times in ISO 8601."""
    store.write(name, json.dumps(value, default=lambda time: time.isoformat(), indent=1).encode())


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
