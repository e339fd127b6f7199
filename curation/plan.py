"""What one command still has to do, from the listing of the inputs and the names of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curation.endings import duplicate, unreadable
from curation.manifest import Manifest
from curation.pipeline_input import Todo
from curation.records import MEASURED, RecordFile, VideoRecord, record_key, video_id_of
from curation.sources import Source
from curation.stage_graph import GRAPH, stale_stages, with_later_stages


@dataclass(frozen=True)
class Work:
    """What is left: inputs to measure, and inputs whose end is known without decoding."""

    measure: list[Todo] = field(default_factory=list)
    settle: list[VideoRecord] = field(default_factory=list)


def plan_work(
    sources: Sequence[Source], hashes: Mapping[str, str | None], manifest: Manifest, retry_failed: bool = False
) -> Work:
    """Inputs whose record is missing or stale. Of equal bytes the first URI is measured, others are duplicates."""
    work = Work()
    files = manifest.records.files()
    measured = {file.video_id for file in files.values() if file.status in MEASURED}
    for source in sources:
        if source.uri not in hashes:
            continue
        sha256 = hashes[source.uri]
        video_id = video_id_of(sha256, source.uri)
        file = files.get(record_key(video_id, source.uri))
        if file is not None and file.status in MEASURED:
            stale = _stale(file, manifest, retry_failed)
            if stale and sha256 is not None:
                again = file.name if file.status == "ok" else None
                work.measure.append(Todo(source.uri, sha256, again, stale))
        elif sha256 is None:
            work.settle.append(unreadable(source.uri))
        elif video_id not in measured:
            work.measure.append(Todo(source.uri, sha256, None, tuple(GRAPH)))
        elif file is None or file.status != "duplicate":
            work.settle.append(duplicate(source.uri, sha256, source.size_bytes))
        measured.add(video_id)
    return work


def _stale(file: RecordFile, manifest: Manifest, retry_failed: bool) -> tuple[str, ...]:
    """Stages that must run again for a measured input. Videos that failed are tried again only when that is asked for:
    no setting makes damaged bytes whole.
    """
    if file.status == "empty":
        return ()
    if file.status != "ok":
        return tuple(GRAPH) if retry_failed else ()
    if file.measured == manifest.measured and not retry_failed:
        return ()
    record = manifest.records.read(file)
    stale = stale_stages(record.stages, manifest.stages)
    if retry_failed:
        stale = with_later_stages({*stale, *(error["stage"] for error in record.errors)})
    return stale
