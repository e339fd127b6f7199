"""What needs all rows: duplicates, selection, runs, clip files; then the published parts are replaced one by one."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from curation.config_error import CurationError
from curation.endings import error_row
from curation.manifest import Manifest
from curation.media import CLIP_COLUMNS, MEDIA_INDEX, MediaPlan, clip_media, made, run_media, unreferenced
from curation.records import Row
from curation.runs import RunPlan, plan_runs, run_row
from curation.stages.dedup import find_duplicates
from curation.stages.select import select

MEDIA_STAGES = ("runs", "clips")
RUN_COLUMNS = (
    *("clip_id", "video_id", "clip_index", "source_uri", "source_sha256"),
    *("start_s", "end_s", "duration_s", "start_pts", "end_pts", "filter_reasons"),
)
FILE_COLUMNS = ("file_name", "file_method", "file_start_s", "file_end_s", "file_num_frames", "file_loss_frac")

Ray = Callable[[], AbstractContextManager[None]]
Tell = Callable[[str], None]


def finish(manifest: Manifest, ray: Ray, tell: Tell, still_ours: Callable[[], None] = lambda: None) -> None:
    """Decide over all clips and make the files that this calls for; files that are there already are not made again.

    `still_ours` raises OutputError when another job has taken the dataset over.
    """
    manifest.unmark_finished()
    clips = decide(_all_clips(manifest), manifest)
    runs, errors = _make_runs(manifest, clips, ray, tell)
    files, file_errors = _make_clip_files(manifest, clips, ray, tell)
    if errors or file_errors:
        tell(f"{len(errors) + len(file_errors)} media files could not be made, see {manifest.store}/errors")
    still_ours()
    for shard in range(manifest.num_shards):
        _replace_clips(manifest, shard, clips, files)
        _replace_rest(manifest, shard, clips, runs, [*errors, *file_errors])
    _remove_unfinished(manifest)
    _remove_stale_index(manifest, files)
    manifest.mark_finished()


def decide(clips: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """`clips` with duplicates marked, and `keep` with every reason against it."""
    clips = clips.assign(**find_duplicates(clips, manifest.config.dedup))
    keep, reasons = select(clips, manifest.config.select)
    return clips.assign(keep=pd.Series(keep, dtype=bool), filter_reasons=pd.Series(list(reasons), dtype=object))


def _all_clips(manifest: Manifest) -> pd.DataFrame:
    """Every clip, in order of shard; embeddings only where duplicates are looked for by them."""
    unread = {"frame_embeddings", "keep", "filter_reasons", "dup_of", "dup_similarity", *FILE_COLUMNS}
    if manifest.config.dedup.eps is None:
        unread.add("clip_embedding")
    columns = [name for name in manifest.table_schema("clips").names if name not in unread]
    parts = [manifest.read_part("clips", shard, columns) for shard in range(manifest.num_shards)]
    return pa.concat_tables(parts, promote_options="none").to_pandas()


def _rows(clips: pd.DataFrame) -> list[Row]:
    """Rows as plain values, null where nothing was measured."""
    plain = clips.astype(object)
    rows: list[Row] = plain.where(clips.notna(), None).to_dict("records")  # type: ignore[assignment]
    return rows


# --- media ------------------------------------------------------------------------------------------------------------


def _make_runs(manifest: Manifest, clips: pd.DataFrame, ray: Ray, tell: Tell) -> tuple[list[Row], list[Row]]:
    """Rows of `runs`, and errors."""
    config = manifest.config
    axes = [rule.axis for rule in config.runs.mean_rules if rule.axis not in RUN_COLUMNS]
    plans = plan_runs(_rows(clips[[*RUN_COLUMNS, *axes]]), config.runs)
    facts, errors = _make(manifest, [run_media(plan, config) for plan in plans], ray, tell)

    def row(plan: RunPlan) -> Row:
        known = facts[plan.run_id]
        return run_row(plan, known["num_frames"], known["first_frame_of_span"], config.runs)

    return [row(plan) for plan in plans if plan.run_id in facts], errors


def _make_clip_files(manifest: Manifest, clips: pd.DataFrame, ray: Ray, tell: Tell) -> tuple[dict[str, Row], list[Row]]:
    """Clip id → the columns file_* of kept clips, and errors."""
    if manifest.config.clip_files.materialize == "none":
        return {}, []
    kept = _rows(clips.loc[clips["keep"], list(CLIP_COLUMNS)])
    facts, errors = _make(manifest, [clip_media(clip, manifest.config) for clip in kept], ray, tell)
    _tell_loss(facts, tell)
    return facts, errors


def _tell_loss(facts: dict[str, Row], tell: Tell) -> None:
    loss = [known["file_loss_frac"] for known in facts.values() if known["file_name"]]
    if loss:
        methods = Counter(known["file_method"] for known in facts.values() if known["file_name"])
        how = ", ".join(f"{number} {method}" for method, number in sorted(methods.items()))
        tell(f"{len(loss)} clip files ({how}), {len(facts) - len(loss)} clips without; mean loss {np.mean(loss):.1%}")


def _make(manifest: Manifest, plans: Sequence[MediaPlan], ray: Ray, tell: Tell) -> tuple[dict[str, Row], list[Row]]:
    """Id → what is known of the file, for files made now or before; errors of those that could not be made."""
    facts = made(plans, manifest.store)
    errors: list[Row] = []
    missing = [plan for plan in plans if plan.id not in facts]
    if not missing:
        return facts, errors
    from curation import pipeline

    with ray():
        for done, (plan, known, error) in enumerate(pipeline.make_media(missing, manifest), start=1):
            tell(f"{done}/{len(missing)} {plan.kind}: {plan.id}" + (f" failed: {error}" if error else ""))
            if error or known is None:
                clip_id = plan.id if plan.clip else None
                what = (plan.video_id, plan.source_uri, clip_id, plan.kind, "VideoDecodeError", error or "")
                errors.append(error_row(*what))
            else:
                facts[plan.id] = known
    return facts, errors


# --- tables -----------------------------------------------------------------------------------------------------------


def _replace_clips(manifest: Manifest, shard: int, clips: pd.DataFrame, files: dict[str, Row]) -> None:
    part = manifest.read_part("clips", shard)
    decided = clips.set_index("clip_id").loc[part["clip_id"].to_pylist()]
    known = [files.get(clip_id, {}) for clip_id in decided.index]
    columns = {
        "dup_of": [value if isinstance(value, str) else None for value in decided["dup_of"]],
        "dup_similarity": [None if pd.isna(value) else float(value) for value in decided["dup_similarity"]],
        "keep": decided["keep"].tolist(),
        "filter_reasons": decided["filter_reasons"].tolist(),
        **{name: [row.get(name) for row in known] for name in FILE_COLUMNS},
    }
    manifest.write_part("clips", shard, _with_columns(manifest, part, columns))


def _with_columns(manifest: Manifest, part: pa.Table, columns: dict[str, list[object]]) -> pa.Table:
    """`part` with columns replaced, under the schema and config of now."""
    goal = manifest.table_schema("clips")
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else part[f.name] for f in goal]
    return pa.Table.from_arrays(arrays, schema=goal)


def _replace_rest(
    manifest: Manifest, shard: int, clips: pd.DataFrame, runs: Sequence[Row], errors: Sequence[Row]
) -> None:
    shard_of = manifest.records.shard_of
    manifest.write_part("runs", shard, manifest.table("runs", [r for r in runs if shard_of(r["video_id"]) == shard]))
    known = [e for e in manifest.read_part("errors", shard).to_pylist() if e["stage"] not in MEDIA_STAGES]
    mine = [e for e in errors if shard_of(e["video_id"]) == shard]
    manifest.write_part("errors", shard, manifest.table("errors", [*known, *mine]))
    kept = clips[clips["keep"]].groupby("video_id").size()
    part = manifest.read_part("videos", shard)
    videos = part.to_pylist()
    for video in videos:
        video["num_kept"] = int(kept.get(video["video_id"], 0)) if video["status"] == "ok" else None
    records = {"records": part.schema.metadata[b"records"]} if b"records" in (part.schema.metadata or {}) else {}
    data = manifest.table("videos", videos)
    manifest.write_part("videos", shard, data.replace_schema_metadata({**data.schema.metadata, **records}))


# --- files nobody names -----------------------------------------------------------------------------------------------


def _named(manifest: Manifest) -> set[str]:
    names: set[str] = set()
    for shard in range(manifest.num_shards):
        names |= set(manifest.read_part("runs", shard, ["file_name"])["file_name"].to_pylist())
        names |= set(manifest.read_part("clips", shard, ["file_name"])["file_name"].to_pylist())
    return names - {None}


def lacks_files(manifest: Manifest) -> bool:
    """Whether a row names a media file that is not there."""
    return bool(_named(manifest) - {entry.name for entry in manifest.store.entries("media")})


def remove_unreferenced(manifest: Manifest, tell: Tell) -> None:
    """Delete media files that no row names, and their notes.

    Raises CurationError, nothing deleted, where files that should be there could not be made: their sources are away,
    and what is there of them may be all there is.
    """
    missing = sum(_media_errors(manifest, shard) for shard in range(manifest.num_shards))
    if missing:
        raise CurationError(
            f"{missing} media files could not be made (see {manifest.store}/errors), so nothing is pruned: bring their "
            "sources back and run the command again with --retry-failed"
        )
    gone = unreferenced(manifest.store, _named(manifest))
    for name in gone:
        manifest.store.delete(name)
    tell(f"pruned {len(gone)} files")


def _media_errors(manifest: Manifest, shard: int) -> int:
    stages = manifest.read_part("errors", shard, ["stage"])["stage"].to_pylist()
    return sum(stage in MEDIA_STAGES for stage in stages)


def _remove_stale_index(manifest: Manifest, files: dict[str, Row]) -> None:
    """The index that an export in place has left in media/, once it names a file that no clip has."""
    data = manifest.store.read(MEDIA_INDEX)
    if data is None:
        return
    named = set(pq.read_table(io.BytesIO(data), columns=["file_name"])["file_name"].to_pylist())
    if named - {str(known["file_name"]).removeprefix("media/") for known in files.values()}:
        manifest.store.delete(MEDIA_INDEX)


def _remove_unfinished(manifest: Manifest) -> None:
    """Files that a killed process left unfinished; nobody else writes here now."""
    for folder in ("media", "clips", "videos", "runs", "errors", "manifest"):
        for entry in manifest.store.entries(folder):
            old = time.time_ns() - entry.modified_ns > 60e9
            if entry.name.rpartition("/")[2].startswith("_") and old:
                manifest.store.delete(entry.name)


def summary(manifest: Manifest) -> str:
    """Counts of the dataset: videos by status, clips kept and why not, runs and their length."""
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    clips = kept = runs = frames = 0
    for shard in range(manifest.num_shards):
        status.update(manifest.read_part("videos", shard, ["status"])["status"].to_pylist())
        decided = manifest.read_part("clips", shard, ["keep", "filter_reasons"])
        clips += decided.num_rows
        kept += sum(bool(keep) for keep in decided["keep"].to_pylist())
        reasons.update(reason for row in decided["filter_reasons"].to_pylist() for reason in row or [])
        lengths = manifest.read_part("runs", shard, ["num_frames"])["num_frames"].to_pylist()
        runs, frames = runs + len(lengths), frames + sum(lengths)
    return "\n".join(
        [
            f"{manifest.store}: {_counts(status)} ({status.total()} inputs)",
            f"clips: {clips}, kept {kept}; not kept for: {_counts(reasons) or 'nothing'}",
            f"runs: {runs}, {frames} frames at {manifest.config.runs.train_fps:g} fps",
        ]
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counter.most_common())
