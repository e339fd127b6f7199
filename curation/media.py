"""Media files of the dataset: runs, and files of single clips; each is made once and comes with a note of how.

media/runs/<run_id>.mp4     manifest/runs/<run_id>.json
media/clips/<clip_id>.mp4   manifest/clips/<clip_id>.json
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from curation.clip_files import write_clip_file
from curation.config import CurationConfig
from curation.config_json import fingerprint, fingerprint_of_text
from curation.isolation import KillableWorker, WorkerDiedError
from curation.records import Row
from curation.runs import RunPlan
from curation.store import Store
from curation.video import VideoDecodeError, write_run

MEDIA_INDEX = "media/metadata.parquet"
"""Written by an export in place: makes media/ a VideoFolder."""
CLIP_COLUMNS = (
    *("clip_id", "video_id", "source_uri", "start_s", "end_s", "duration_s", "fps", "start_pts", "end_pts"),
    *("start_frame", "num_frames", "width", "height"),
)
"""What making a clip's file needs to know of the clip."""


@dataclass(frozen=True)
class MediaPlan:
    """One file to make: a run, or the row of a clip. `made_from` changes with everything that decides the file."""

    kind: Literal["runs", "clips"]
    id: str
    video_id: str
    source_uri: str
    made_from: str
    run: RunPlan | None = None
    clip: Row | None = None

    @property
    def note(self) -> str:
        """Name of the note in the dataset."""
        return f"manifest/{self.kind}/{self.id}.json"


def run_media(plan: RunPlan, config: CurationConfig) -> MediaPlan:
    """The file of a run."""
    made_from = fingerprint_of_text(fingerprint(config.runs), json.dumps(dataclasses.asdict(plan)))
    return MediaPlan("runs", plan.run_id, plan.video_id, plan.source_uri, made_from, run=plan)


def clip_media(clip: Row, config: CurationConfig) -> MediaPlan:
    """The file of a clip, from its row."""
    row = {column: clip[column] for column in CLIP_COLUMNS}
    settings = (fingerprint(config.clip_files), fingerprint(config.runs))
    made_from = fingerprint_of_text(*settings, json.dumps(row))
    return MediaPlan("clips", row["clip_id"], row["video_id"], row["source_uri"], made_from, clip=row)


def made(plans: Sequence[MediaPlan], store: Store) -> dict[str, Row]:
    """Id → what is known of the file, for those that are in the dataset already."""
    if not plans:
        return {}
    kind = plans[0].kind
    there = {entry.name for entry in store.entries(f"media/{kind}")}
    notes = {entry.name for entry in store.entries(f"manifest/{kind}")}
    found = {}
    for plan in plans:
        if plan.note in notes:
            note = json.loads(store.read(plan.note) or b"{}")
            if note.get("made_from") == plan.made_from and _file_of(note["facts"]) in {None, *there}:
                found[plan.id] = note["facts"]
    return found


def make(plan: MediaPlan, store: Store, config: CurationConfig) -> tuple[Row, str | None]:
    """Write the file and its note. Returns (what is known of the file, null), or ({}, what is wrong with the source).

    The source is decoded in a process that can be killed. Raises StoreError when the dataset cannot be written.
    """
    store.delete(plan.note)  # an old one must not vouch for what is written now
    try:
        facts = _written(plan, store, config)
    except (VideoDecodeError, WorkerDiedError) as error:
        return {}, str(error)
    store.write(plan.note, json.dumps({"made_from": plan.made_from, "facts": facts}, indent=1).encode())
    return facts, None


def _written(plan: MediaPlan, store: Store, config: CurationConfig) -> Row:
    """A decoder that dies or hangs is tried again as often as in the decode pass."""
    limits = config.decode
    for attempt in range(1, limits.max_attempts + 1):
        try:
            return _writer(limits.time_limit_s, limits.memory_limit_bytes).call(plan, store, config)
        except WorkerDiedError:
            if attempt == limits.max_attempts:
                raise
    raise AssertionError("max_attempts is at least 1")


@functools.lru_cache(maxsize=1)
def _writer(time_limit_s: float, memory_limit_bytes: int) -> KillableWorker[Row]:
    return KillableWorker(write_here, time_limit_s, memory_limit_bytes)


def write_here(plan: MediaPlan, store: Store, config: CurationConfig) -> Row:
    """Write the file in this process. Raises VideoDecodeError and StoreError."""
    return _write_run(plan.run, store, config) if plan.run else _write_clip(plan.clip or {}, store, config)


def _write_run(plan: RunPlan, store: Store, config: CurationConfig) -> Row:
    run = config.runs
    with store.writing(plan.file_name) as path:
        file = write_run(
            plan.source_uri, plan.spans, path, run.train_fps, (run.height, run.width), run.gop_frames, run.crf
        )
    return {
        "file_name": plan.file_name,
        "num_frames": file.num_frames,
        "first_frame_of_span": file.first_frame_of_span,
    }


def _write_clip(clip: Row, store: Store, config: CurationConfig) -> Row:
    """The columns file_* of a clip; all but the loss are null where nothing of it could be copied."""
    with store.writing_into("media/clips") as folder:
        facts = write_clip_file(clip, folder / clip["clip_id"], config.clip_files, config.runs)
    name = facts["file_name"]
    return {**facts, "file_name": f"media/clips/{name}" if name else None}


def _file_of(facts: Mapping[str, object]) -> object:
    return facts["file_name"]


def unreferenced(store: Store, named: Collection[str]) -> list[str]:
    """Files under media/, and notes of such files, that no row names (any more); unfinished files too."""
    ids = {name.rpartition("/")[2].partition(".")[0] for name in named}
    files = [entry.name for entry in store.entries("media") if entry.name not in named]
    files = [name for name in files if name != MEDIA_INDEX]
    notes = [entry.name for kind in ("runs", "clips") for entry in store.entries(f"manifest/{kind}")]
    return files + [name for name in notes if name.rpartition("/")[2].partition(".")[0] not in ids]
