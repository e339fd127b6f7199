"""One curation job from beginning to end: what is left to do, doing it on Ray (only then), selection, runs."""

import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from curation.config import CurationConfig, CurationError
from curation.manifest import Manifest, Row, VideoRecord, check_output, record_key, video_id_of
from curation.model_files import check_model_files
from curation.runs import RunPlan, plan_runs, written_run
from curation.schema import clips_schema
from curation.sources import InputError, Source, list_sources
from curation.stages.select import check_axes, select
from curation.video import content_hash

HASHING_THREADS = 8
PLAN_COLUMNS = ["clip_id", "video_id", "clip_index", "source_uri", "source_sha256", "start_s", "end_s", "duration_s"]
PLAN_COLUMNS += ["start_pts", "end_pts", "filter_reasons"]


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs: an address, else the cluster this job was submitted to, else this machine with `num_cpus`."""

    address: str | None = None
    num_cpus: int | None = None

    def __post_init__(self) -> None:
        if self.num_cpus is not None and (self.num_cpus < 1 or self.address is not None):
            raise CurationError(
                f"num_cpus = {self.num_cpus} must be at least 1, and is for this machine only: a cluster "
                f"({self.address}) has its own; leave out --num-cpus"
            )


@dataclass(frozen=True)
class Work:
    """What one command still has to do."""

    measure: list[tuple[Source, str]] = field(default_factory=list)
    """Inputs to decode, with the hash of their bytes."""
    settle: list[VideoRecord] = field(default_factory=list)
    """Inputs whose end is known without decoding: duplicates and unreadable bytes."""


def curate(place: str, root: Path, config: CurationConfig, where: Cluster) -> str:
    """Bring the dataset at `root` up to date with the videos at `place`. Returns a summary of a few lines.

    Running it again goes on where it ended; with nothing to do no Ray process is started.
    Raises CurationError for what the user has to change; what was there is then untouched.
    """
    sources = list_sources(place)
    _check_rules(config)
    if not check_output(root, config, place):
        check_model_files(config)
    manifest = Manifest.open(root, config, place, len(sources))
    with manifest.lock():
        hashes = manifest.known_hashes(sources)
        unknown = [source for source in sources if source.uri not in hashes]
        if unknown:
            hashes |= hash_sources([source.uri for source in unknown])
            manifest.remember_hashes(unknown, hashes)
        work = plan_work(sources, hashes, manifest)
        if work.measure or work.settle or not manifest.is_finished():
            check_model_files(config)
            _work(manifest, work, where)
    _require_one_readable(manifest, sources)
    return summary(manifest)


def reselect(root: Path, config: CurationConfig, where: Cluster) -> str:
    """Apply other thresholds and run settings to stored scores; nothing is measured again."""
    _check_rules(config)
    manifest = Manifest.existing(root)
    with manifest.lock():
        manifest = manifest.with_config(config)
        finish(manifest, where)
    return summary(manifest)


def _check_rules(config: CurationConfig) -> None:
    check_axes((*config.select.rules, *config.runs.mean_rules), clips_schema(1))


def plan_work(sources: Sequence[Source], hashes: dict[str, str | None], manifest: Manifest) -> Work:
    """Inputs without a record: the first URI of each content is measured, further ones are duplicates."""
    from curation.operators import failed_video, video_errors

    done = manifest.recorded_keys()
    measured = {key.partition("-")[0] for key in done}
    work = Work()
    for source in sources:
        if source.uri not in hashes:
            continue
        sha256 = hashes[source.uri]
        video_id = video_id_of(sha256, source.uri)
        if record_key(video_id, source.uri) in done:
            continue
        if sha256 is None:
            video = failed_video(source.uri, None, "failed", "input", "OSError", f"{source.uri}: cannot be read")
            work.settle.append(VideoRecord(video, [], video_errors(video)))
        elif video_id in measured:
            video = failed_video(source.uri, sha256, "duplicate", "input", "", "")
            video |= {"error_stage": None, "error_type": None, "error_message": None, "size_bytes": source.size_bytes}
            work.settle.append(VideoRecord(video))
        else:
            work.measure.append((source, sha256))
        measured.add(video_id)
    return work


def hash_sources(uris: Sequence[str]) -> dict[str, str | None]:
    """URI → SHA-256 of its bytes, null where they cannot be read. Mostly waiting, hence threads."""
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(zip(uris, pool.map(_hash, uris), strict=True))


def _hash(uri: str) -> str | None:
    try:
        return content_hash(uri)[0]
    except OSError:
        return None


def _work(manifest: Manifest, work: Work, where: Cluster) -> None:
    """Measure, publish, finish, in one Ray session if there is anything to measure."""
    for record in work.settle:
        manifest.write_record(record)
    with contextlib.ExitStack() as stack:
        if work.measure:
            from curation import pipeline

            stack.enter_context(pipeline.cluster(where.address, where.num_cpus))
            measure(manifest, work.measure)
        for shard in range(manifest.num_shards):
            manifest.publish(shard)
        finish(manifest, where)


def measure(manifest: Manifest, todo: Sequence[tuple[Source, str]]) -> None:
    """Measure videos, keep each as it is finished, publish each shard when its last one is."""
    from curation import pipeline

    left = Counter(manifest.shard_of(video_id_of(sha256, source.uri)) for source, sha256 in todo)
    for done, record in enumerate(pipeline.measure(todo, manifest), start=1):
        shard = manifest.write_record(record)
        left[shard] -= 1
        if left[shard] == 0:
            manifest.publish(shard)
        _say(f"{done}/{len(todo)} {record.video['status']}: {record.video['source_uri']}, {len(record.clips)} clips")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def finish(manifest: Manifest, where: Cluster) -> None:
    """What needs all rows: selection, then runs; parts are replaced one by one."""
    scores = [column for column in manifest.table_schema("clips").names if column != "clip_embedding"]
    clips = pq.read_table(manifest.root / "clips", columns=scores).to_pandas()
    keep, reasons = select(clips, manifest.config.select)
    clips["keep"], clips["filter_reasons"] = pd.Series(keep, dtype=bool), pd.Series(list(reasons), dtype=object)
    plans = plan_runs(clips[PLAN_COLUMNS + _mean_axes(manifest)].to_dict("records"), manifest.config.runs)
    runs, errors = materialise_runs(manifest, plans, where)
    decided = clips.set_index("clip_id")[["keep", "filter_reasons"]]
    kept = clips[clips["keep"]].groupby("video_id").size()
    for shard in range(manifest.num_shards):
        _apply_selection(manifest, shard, decided, kept)
        _replace_runs(manifest, shard, runs, errors)
    manifest.mark_finished()


def _apply_selection(manifest: Manifest, shard: int, decided: pd.DataFrame, kept: pd.Series) -> None:
    clips = pq.read_table(manifest.part("clips", shard)).to_pylist()
    for clip in clips:
        row = decided.loc[clip["clip_id"]]
        clip["keep"], clip["filter_reasons"] = bool(row["keep"]), list(row["filter_reasons"])
    videos = pq.read_table(manifest.part("videos", shard)).to_pylist()
    for video in videos:
        video["num_kept"] = int(kept.get(video["video_id"], 0)) if video["status"] == "ok" else None
    manifest.write_part("clips", shard, clips)
    manifest.write_part("videos", shard, videos)


def _mean_axes(manifest: Manifest) -> list[str]:
    axes = [rule.axis for rule in manifest.config.runs.mean_rules]
    return [axis for axis in axes if axis not in PLAN_COLUMNS]


def _replace_runs(manifest: Manifest, shard: int, runs: Sequence[Row], errors: Sequence[Row]) -> None:
    known = pq.read_table(manifest.part("errors", shard)).to_pylist()
    mine = [error for error in known if error["stage"] != "runs"]
    mine += [error for error in errors if manifest.shard_of(error["video_id"]) == shard]
    manifest.write_part("errors", shard, mine)
    manifest.write_part("runs", shard, [run for run in runs if manifest.shard_of(run["video_id"]) == shard])


def materialise_runs(manifest: Manifest, plans: Sequence[RunPlan], where: Cluster) -> tuple[list[Row], list[Row]]:
    """Rows of `runs` and of `errors`; files that are there already are not written again."""
    runs = [written_run(plan, manifest.root, manifest.config.runs) for plan in plans]
    missing = [plan for plan, row in zip(plans, runs, strict=True) if row is None]
    written, errors = _write_missing(manifest, missing, where) if missing else ([], [])
    return [row for row in runs if row is not None] + written, errors


def _write_missing(manifest: Manifest, plans: Sequence[RunPlan], where: Cluster) -> tuple[list[Row], list[Row]]:
    from curation import pipeline
    from curation.operators import error_row

    rows, errors = [], []
    with pipeline.cluster(where.address, where.num_cpus):
        for done, (plan, row, error) in enumerate(pipeline.write_runs(plans, manifest), start=1):
            _say(f"{done}/{len(plans)} runs: {plan.file_name}" + (f" failed: {error}" if error else ""))
            if row is not None:
                rows.append(row)
            else:
                errors.append(error_row(plan.video_id, plan.source_uri, None, "runs", "VideoDecodeError", error or ""))
    return rows, errors


def _require_one_readable(manifest: Manifest, sources: Sequence[Source]) -> None:
    videos = pq.read_table(manifest.root / "videos").to_pylist()
    if any(video["status"] == "ok" for video in videos):
        return
    first = next((video for video in videos if video["error_message"]), None)
    reason = first["error_message"] if first else f"{videos[0]['source_uri']} has no clips"
    raise InputError(f"none of the {len(sources)} inputs could be used: {reason} (all reasons: {manifest.root}/errors)")


def summary(manifest: Manifest) -> str:
    """Counts of the dataset: videos by status, clips kept and why not, runs and their length."""
    read = {table: pq.read_table(manifest.root / table) for table in ("videos", "clips", "runs")}
    status = Counter(read["videos"]["status"].to_pylist())
    kept = sum(bool(keep) for keep in read["clips"]["keep"].to_pylist())
    reasons = Counter(reason for row in read["clips"]["filter_reasons"].to_pylist() for reason in row or [])
    frames = sum(read["runs"]["num_frames"].to_pylist())
    return "\n".join(
        [
            f"{manifest.root}: {_counts(status)} ({read['videos'].num_rows} inputs)",
            f"clips: {read['clips'].num_rows}, kept {kept}; not kept for: {_counts(reasons) or 'nothing'}",
            f"runs: {read['runs'].num_rows}, {frames} frames at {manifest.config.runs.train_fps:g} fps",
        ]
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counter.most_common())
