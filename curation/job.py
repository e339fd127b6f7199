"""One curation job from beginning to end: what is left to do, doing it on Ray (only then), selection, media."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.finish import finish, lacks_files, remove_unreferenced, summary
from curation.lock import only_writer
from curation.manifest import Manifest, OutputError, check_output
from curation.model_files import check_model_files, embedding_dim
from curation.plan import Work, plan_work
from curation.records import video_id_of
from curation.schema import clips_schema
from curation.sources import InputError, Source, list_sources
from curation.stage_graph import DECODING, GRAPH, measurement_fingerprint
from curation.stages.merge import check_endpoint
from curation.stages.select import check_axes, check_reasons
from curation.store import Store, one_line

HASHING_THREADS = 8
FAILED = ("failed", "quarantined")
LARGEST_HASHED_HERE_BYTES = 4 << 30
"""More new bytes than this are hashed by the cluster, not by the process that starts the job."""


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

    @contextlib.contextmanager
    def ray(self) -> Iterator[None]:
        """Ray while it is needed."""
        from curation import pipeline

        with pipeline.cluster(self.address, self.num_cpus):
            yield


@dataclass(frozen=True)
class Manners:
    """How a job goes about its work; nothing here changes a row of a video that succeeds."""

    max_failures: int | None = None
    """The job ends once more inputs than this have failed or were quarantined; null goes on whatever happens."""
    retry_failed: bool = False
    """Try failed and quarantined inputs, and stages that failed on single clips, once more."""
    prune: bool = False
    """Delete media files that no row names any more."""

    def __post_init__(self) -> None:
        if self.max_failures is not None and self.max_failures < 0:
            raise CurationError(f"max_failures = {self.max_failures} must be at least 0: leave it out for no limit")


def curate(place: str, root: str, config: CurationConfig, where: Cluster, manners: Manners = Manners()) -> str:
    """Bring the dataset at `root` up to date with the videos at `place`. Returns a summary of a few lines.

    Running it again goes on where it ended; with nothing to do no Ray process is started. A changed setting runs again
    the stages that depend on it.
    Raises CurationError for what the user has to change; what was there is then untouched.
    """
    store = Store.at(root)
    sources = [source for source in list_sources(place) if not source.uri.startswith(f"{store.root}/")]
    if not sources:
        raise InputError(f"input {place} holds only files of the output {store}: give the footage with --input")
    _check_rules(config)
    if not check_output(store, config, place):
        _check_models(config, set(GRAPH))
    with only_writer_of(store) as still_ours, contextlib.ExitStack() as stack:
        manifest = Manifest.open(store, config, place, len(sources))
        hashes = _hashes(manifest, sources, manners, where, stack)
        manifest.records.take_over(hashes)
        work = plan_work(sources, hashes, manifest, manners.retry_failed)
        whole = manifest.is_finished() and not lacks_files(manifest)
        if work.measure or work.settle or manners.retry_failed or not whole:
            _work(manifest, work, where, manners, stack, still_ours)
        _check_budget(manifest, manners)
        if manners.prune:
            remove_unreferenced(manifest, tell=_say)
        _require_one_readable(manifest, sources)
        return summary(manifest)


def reselect(root: str, config: CurationConfig, where: Cluster, manners: Manners = Manners()) -> str:
    """Apply other thresholds, run and clip file settings to stored scores; nothing is measured again."""
    _check_rules(config)
    store = Store.at(root)
    Manifest.existing(store)
    with only_writer_of(store) as still_ours:
        manifest = Manifest.existing(store)
        _require_measured(manifest, config)
        manifest = manifest.with_config(config)
        _publish_all(manifest)
        finish(manifest, where.ray, tell=_say, still_ours=still_ours)
        if manners.prune:
            remove_unreferenced(manifest, tell=_say)
        return summary(manifest)


def _require_measured(manifest: Manifest, config: CurationConfig) -> None:
    """Raise OutputError unless every record was made under the measuring half of `config`: of a job that ended half
    through a change not all are.
    """
    want = measurement_fingerprint(config)
    others = [file for file in manifest.records.files().values() if file.status == "ok" and file.measured != want]
    if others:
        raise OutputError(
            f"{manifest.store}: {len(others)} videos were measured with other settings than profile "
            f"{config.profile!r} has: --reselect changes thresholds and files only; leave out --profile, give the one "
            "they were measured with, or curate with this one to run its stages again"
        )


@contextlib.contextmanager
def only_writer_of(store: Store) -> Iterator[Callable[[], None]]:
    """The lock of a dataset, as a check that it is still ours; of one that cannot be written, an error in one line."""
    with contextlib.ExitStack() as stack:
        try:
            still_ours = stack.enter_context(only_writer(store))
        except OSError as error:
            reason = one_line(error)
            raise OutputError(f"output {store} cannot be written ({reason}): choose another --output") from error
        yield still_ours


def _check_models(config: CurationConfig, stages: Collection[str]) -> None:
    """Everything that can be known of models before any work. Raises CurationError."""
    check_model_files(config, stages)
    if "aesthetics" in stages:
        from curation.stages.aesthetics import AestheticHead

        AestheticHead.load(config.aesthetics).check_width(embedding_dim(config.embed))
    if "merge" in stages:
        check_endpoint(config.merge)


def _check_rules(config: CurationConfig) -> None:
    check_axes((*config.select.rules, *config.runs.mean_rules), clips_schema(1))
    check_reasons(config.runs.break_reasons, clips_schema(1))


def _hashes(
    manifest: Manifest, sources: Sequence[Source], manners: Manners, where: Cluster, stack: contextlib.ExitStack
) -> dict[str, str | None]:
    """URI → content hash; bytes are read only where size or time have changed, by the cluster if they are many."""
    hashes = manifest.known_hashes(sources)
    if manners.retry_failed:
        hashes = {uri: sha256 for uri, sha256 in hashes.items() if sha256 is not None}
    unknown = [source for source in sources if source.uri not in hashes]
    if not unknown:
        return hashes
    uris = [source.uri for source in unknown]
    if sum(source.size_bytes or 0 for source in unknown) > LARGEST_HASHED_HERE_BYTES:
        from curation import pipeline

        stack.enter_context(where.ray())
        hashes |= dict(pipeline.hash_sources(uris))
    else:
        from curation.hashing import hash_or_none

        with ThreadPoolExecutor(HASHING_THREADS) as pool:  # mostly waiting for storage
            hashes |= dict(zip(uris, pool.map(hash_or_none, uris), strict=True))
    for uri in manifest.remember_hashes(unknown, hashes):
        _say(f"{uri} cannot be read now: what is known of it stays")
        del hashes[uri]
    return hashes


def _work(
    manifest: Manifest,
    work: Work,
    where: Cluster,
    manners: Manners,
    stack: contextlib.ExitStack,
    still_ours: Callable[[], None],
) -> None:
    """Measure, publish, finish, in one Ray session if there is anything to measure."""
    needed = {stage for todo in work.measure for stage in todo.stale} - DECODING
    _check_models(manifest.config, needed)
    manifest.adopt()
    for record in work.settle:
        manifest.records.write(record, manifest.measured)
    try:
        if work.measure:
            stack.enter_context(where.ray())
            _measure(manifest, work, manners, still_ours)
    finally:
        _publish_all(manifest)  # what is finished can be read, also after a job that ends early
    finish(manifest, where.ray, tell=_say, still_ours=still_ours)


def _publish_all(manifest: Manifest) -> None:
    for shard, files in manifest.records.by_shard().items():
        manifest.publish(shard, files)


def _measure(manifest: Manifest, work: Work, manners: Manners, still_ours: Callable[[], None]) -> None:
    """Measure videos, keep each as it is finished, publish each shard when its last one is."""
    from curation import pipeline

    pipeline.check_nodes(manifest.store, work.measure[0].uri)
    shard_of = manifest.records.shard_of
    left = Counter(shard_of(video_id_of(todo.sha256, todo.uri)) for todo in work.measure)
    _say_stages(work)
    for done, record in enumerate(pipeline.measure(work.measure, manifest), start=1):
        still_ours()
        shard = manifest.records.write(record, manifest.measured)
        left[shard] -= 1
        if left[shard] == 0:
            manifest.publish(shard, manifest.records.by_shard()[shard])
        _say(f"{done}/{len(work.measure)} {_ending(record.video, len(record.clips))}")
        if record.video["status"] in FAILED:
            _check_budget(manifest, manners)


def _ending(video: dict[str, object], num_clips: int) -> str:
    why = f": {video['error_message']}" if video.get("error_message") else f": {video['source_uri']}, {num_clips} clips"
    return f"{video['status']}{why}"


def _say_stages(work: Work) -> None:
    again = Counter(stage for todo in work.measure if todo.record for stage in todo.stale)
    if again:
        _say("stages that run again: " + ", ".join(f"{stage} ({videos} videos)" for stage, videos in again.items()))


def _check_budget(manifest: Manifest, manners: Manners) -> None:
    if manners.max_failures is None:
        return
    failed = [file for file in manifest.records.files().values() if file.status in FAILED]
    if len(failed) > manners.max_failures:
        raise CurationError(
            f"{len(failed)} inputs have failed, --max-failures allows {manners.max_failures}: see "
            f"{manifest.store}/errors, then run the command again with a larger budget; what is finished is kept"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _require_one_readable(manifest: Manifest, sources: Sequence[Source]) -> None:
    parts = (manifest.read_part("videos", shard).to_pylist() for shard in range(manifest.num_shards))
    videos = [video for part in parts for video in part]
    if any(video["status"] == "ok" for video in videos):
        return
    first = next((video for video in videos if video["error_message"]), None)
    reason = first["error_message"] if first else f"{videos[0]['source_uri']} has no clips"
    raise InputError(
        f"none of the {len(sources)} inputs could be used: {reason} (all reasons: {manifest.store}/errors)"
    )
