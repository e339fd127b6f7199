"""The distributed part: Ray Data operators from URIs to finished clips, and the tasks that write media.

Only URIs enter and only small rows leave; the few small frames of a clip (2 MB at most) go from decoder to models.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from curation.config_error import CurationError
from curation.endings import collect
from curation.hashing import hash_or_none
from curation.manifest import Manifest
from curation.media import MediaPlan, make
from curation.model_files import model_bytes
from curation.operators import (
    CaptionStage,
    EmbedStage,
    TextStage,
    WholeVideo,
    analyse,
    merge_captions,
    without_pictures,
)
from curation.pipeline_input import Todo
from curation.records import Row, VideoRecord
from curation.stage_graph import DECODING
from curation.store import Store, open_file

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # one line per video is printed anyway
import ray  # after the lines above: usage statistics stay off
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

WORKER_BYTES = 1 << 30
"""Memory of a worker besides its models: libraries, a decoder, some pictures."""


@dataclass(frozen=True)
class Resources:
    """Share of the cluster that each operator asks for."""

    decode_cpus: float
    model_cpus: float
    most_actors: int
    gpus_text: float
    gpus_caption: float
    gpus_embed: float


def share(cpus: float, gpus: float) -> Resources:
    """Divide the cluster so that every CPU can decode while the models wait, and the models while decoding waits.

    A model actor asks for little and takes what it gets (the operating system shares a CPU better than a fixed
    division that leaves one part idle); so on two CPUs two videos are decoded beside the three actors, and on one CPU
    one is.
    """
    model_cpus = 0.05 * min(1.0, cpus)
    decode_cpus = (1.0 - 3 * model_cpus) if cpus < 2 else 0.9
    most_actors = max(1, int(cpus // 2))  # pools grow with the cluster while their queues are full
    per_gpu = min(1.0, gpus)  # text 1/4, captions 1/2, embeddings 1/4 of one GPU; 0 without GPUs
    return Resources(decode_cpus * min(1.0, cpus), model_cpus, most_actors, per_gpu / 4, per_gpu / 2, per_gpu / 4)


class ClusterError(CurationError):
    """The Ray cluster that was asked for cannot be reached, or its nodes do not see the same files."""


@contextlib.contextmanager
def cluster(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Join the cluster at `address` (or the one this job was submitted to), else start one on this machine and end it.

    A CurationError raised on a worker, a damaged model for one, leaves as itself.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    mine = not ray.is_initialized()
    if mine and address:
        _join(address)
    elif mine:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()  # in a log they are only noise
    context.issue_detectors_config.detectors = []  # advice on memory that a model simply needs
    context.memory_usage_poll_interval_s = None  # walking all pages of a worker with models costs 4 % of its time
    try:
        yield
    except (ray.exceptions.RayTaskError, ray.exceptions.RayActorError) as error:
        told = told_by_worker(error)
        if told is None:
            raise
        raise told from error
    finally:
        if mine:
            ray.shutdown()


def told_by_worker(error: Exception) -> CurationError | None:
    """The CurationError behind a failed worker; Ray hands over the end of an actor as text."""
    found = re.findall(r"^curation\.[\w.]+Error: (.+)$", str(error), re.MULTILINE)
    return CurationError(found[-1]) if found else None


def _join(address: str) -> None:
    try:
        ray.init(address=address)
    except (ConnectionError, ray.exceptions.RaySystemError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterError(f"no Ray cluster at {address} ({reason}): check --ray-address and the token") from error


def check_nodes(store: Store, uri: str) -> None:
    """Raise ClusterError unless every node reads the first input and sees the dataset where this process does."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    seen = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        seen[node["NodeManagerAddress"]] = _sees.options(scheduling_strategy=there).remote(store, uri)
    for address, answer in seen.items():
        missing = ray.get(answer)
        if missing:
            raise ClusterError(
                f"node {address} cannot read {missing}: put it where every node sees it under this name, on a shared "
                "file system or an object store (s3://…)"
            )


@ray.remote(num_cpus=0)
def _sees(store: Store, uri: str) -> str | None:
    """What this node cannot read; null when it reads both."""
    if not store.exists("manifest/job.json"):
        return store.root
    try:
        with open_file(uri) as file:
            file.read(1)
    except OSError:
        return uri
    return None


def hash_sources(uris: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(URI, SHA-256 of its bytes or null where they cannot be read), read where the cluster is nearest to them."""

    def hashed(row: Row) -> Row:
        return {"uri": row["item"], "sha256": hash_or_none(row["item"])}

    # Mostly waiting for storage: half a CPU each.
    items = ray.data.from_items(list(uris), override_num_blocks=min(len(uris), 4096))
    for row in items.map(hashed, num_cpus=0.5).iter_rows():
        yield row["uri"], row["sha256"]


def measure(todo: Sequence[Todo], manifest: Manifest) -> Iterator[VideoRecord]:
    """Decode, measure, caption and embed; records arrive in the order they finish. Stages nobody needs do not run.

    With GPUs every stage is an operator of its own, so that few GPUs serve many decoding CPUs. Without, every CPU takes
    whole videos from end to end: handing pictures from process to process would only cost.
    """
    items = [{"uri": t.uri, "sha256": t.sha256, "record": t.record, "stale": list(t.stale)} for t in todo]
    inputs = ray.data.from_items(items, override_num_blocks=len(items))
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 1.0), total.get("GPU", 0.0)
    if has_gpus(gpus):
        rows = _stage_by_stage(inputs, needed_stages(todo), manifest, share(cpus, gpus))
    else:
        rows = _video_by_video(inputs, needed_stages(todo), manifest, cpus, total.get("memory", math.inf))
    yield from collect(rows.iter_rows(), manifest.embedding_dim, manifest.stages)


def has_gpus(gpus: float) -> bool:
    """Whether the models run on processors other than those that decode."""
    return gpus > 0


def _video_by_video(
    inputs: ray.data.Dataset, needed: set[str], manifest: Manifest, cpus: float, memory: float
) -> ray.data.Dataset:
    """One operator: an actor per CPU with all models, as many as the memory holds."""
    config = manifest.config
    need = WORKER_BYTES + model_bytes(config, needed)
    actors = max(1, min(int(cpus), int(min(memory / need, 1e6))))
    return inputs.map_batches(
        WholeVideo,
        fn_constructor_args=(config, manifest.embedding_dim, manifest.store, sorted(needed)),
        batch_size=1,  # one video per call, so that a lost worker costs one video
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=min(1.0, cpus),  # decoding and models take turns on one thread
        memory=min(need, memory),
    )


def _stage_by_stage(
    inputs: ray.data.Dataset, needed: set[str], manifest: Manifest, part: Resources
) -> ray.data.Dataset:
    """An operator per stage: decoding in tasks on CPUs, models in actors on their share of a GPU."""
    config, dim = manifest.config, manifest.embedding_dim
    # A whole block (clips of one video, in order) is one batch: what a model sees does not depend on who is early.
    whole = {"batch_size": None, "batch_format": "pyarrow"}
    actors = {
        **whole,
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=part.most_actors),
        "num_cpus": part.model_cpus,
    }
    rows = inputs.map_batches(
        # One video per task, so that a lost worker costs one video; CPU only; Ray decodes it again elsewhere.
        analyse,
        fn_args=(config, dim, manifest.store),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=part.decode_cpus,
    )
    if "text" in needed:
        # Text area: small convolutional nets.
        rows = rows.map_batches(TextStage, fn_constructor_args=(config, dim), num_gpus=part.gpus_text, **actors)
    if captions := needed & {"caption", "video_caption"}:
        # Captions: the largest models and the slowest stage, hence half a GPU.
        arguments = (config, dim, sorted(captions))
        rows = rows.map_batches(CaptionStage, fn_constructor_args=arguments, num_gpus=part.gpus_caption, **actors)
    if needed & {"merge", "choice"}:
        # The template costs nothing, a language model answers over the network: tasks that mostly wait.
        rows = rows.map_batches(merge_captions, fn_args=(config, dim), num_cpus=part.model_cpus, **whole)
    if needed & {"embed", "aesthetics", "similarity"}:
        # Embeddings, aesthetic score, similarity to the captions.
        rows = rows.map_batches(EmbedStage, fn_constructor_args=(config, dim), num_gpus=part.gpus_embed, **actors)
    # The frames end here, before the driver.
    return rows.map_batches(without_pictures, num_cpus=part.model_cpus, **whole)


def needed_stages(todo: Collection[Todo]) -> set[str]:
    """Stages that at least one input needs; decoding is always there, it also reads again."""
    return {stage for item in todo for stage in item.stale} - DECODING


def make_media(plans: Sequence[MediaPlan], manifest: Manifest) -> Iterator[tuple[MediaPlan, Row | None, str | None]]:
    """Write every planned file; yields (plan, what is known of the file, null) or (plan, null, what went wrong)."""
    items = [{"index": index} for index in range(len(plans))]
    store, config = manifest.store, manifest.config

    def write(row: Row) -> Row:
        facts, error = make(plans[row["index"]], store, config)
        return {**row, "facts": json.dumps(facts), "error": error or ""}

    cpus = share(ray.cluster_resources().get("CPU", 1.0), 0.0).decode_cpus  # decoding and x264 run on one thread
    blocks = min(len(items), 4096)
    for row in ray.data.from_items(items, override_num_blocks=blocks).map(write, num_cpus=cpus).iter_rows():
        yield plans[row["index"]], json.loads(row["facts"]), row["error"] or None
