"""The distributed part: Ray Data operators from URIs to finished clips, and the tasks that write runs.

Only URIs enter and only small rows leave; the few small frames of a clip (2 MB at most) go from decoder to models.
"""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curation.config import CurationError
from curation.manifest import Manifest, Row, VideoRecord
from curation.operators import CaptionStage, EmbedStage, TextStage, analyse, collect, forget_attempts
from curation.runs import RunPlan, write_planned_run
from curation.sources import Source

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray  # after the line above: usage statistics stay off


@dataclass(frozen=True)
class Resources:
    """Share of the cluster that each operator asks for."""

    decode_cpus: float
    model_cpus: float
    model_actors: tuple[int, int]
    gpus_text: float
    gpus_caption: float
    gpus_embed: float


def share(cpus: float, gpus: float) -> Resources:
    """Divide the cluster so that one decode task always fits beside the three model actors, on two CPUs or on one."""
    decode_cpus = 1.0 if cpus >= 2 else cpus / 2  # decoding is one thread
    model_cpus = min(1.0, (cpus - decode_cpus) / 3)  # torch runs with one thread; three actors share what is left
    most = max(1, int(cpus // 6))  # pools grow to half of a large cluster, decoding keeps the other half
    per_gpu = min(1.0, gpus)  # text 1/4, captions 1/2, embeddings 1/4 of one GPU; 0 without GPUs
    return Resources(decode_cpus, model_cpus, (1, most), per_gpu / 4, per_gpu / 2, per_gpu / 4)


class ClusterError(CurationError):
    """The Ray cluster that was asked for cannot be reached."""


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
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # one line per video is printed anyway
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()  # in a log they are only noise
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


def measure(sources: Sequence[tuple[Source, str]], manifest: Manifest) -> Iterator[VideoRecord]:
    """Decode, measure, caption and embed every (source, content hash); records arrive in the order they finish."""
    total = ray.cluster_resources()
    part = share(total.get("CPU", 1.0), total.get("GPU", 0.0))
    config, dim = manifest.config, manifest.embedding_dim
    attempts = manifest.root / "manifest" / "attempts"
    forget_attempts(attempts)
    actors = {
        "compute": ray.data.ActorPoolStrategy(min_size=part.model_actors[0], max_size=part.model_actors[1]),
        "batch_format": "pyarrow",
        "num_cpus": part.model_cpus,
    }
    items = [{"uri": source.uri, "sha256": sha256} for source, sha256 in sources]
    rows = (
        ray.data.from_items(items, override_num_blocks=len(items))
        # One video per task, so that a lost worker costs one video; CPU only.
        .map_batches(
            analyse,
            fn_args=(config, dim, attempts),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=part.decode_cpus,
        )
        # Text area: small convolutional nets; batches bound the memory of a GPU.
        .map_batches(TextStage, fn_constructor_args=(config, dim), batch_size=8, num_gpus=part.gpus_text, **actors)
        # Captions: the largest model and the slowest stage, hence half a GPU.
        .map_batches(
            CaptionStage,
            fn_constructor_args=(config, dim),
            batch_size=config.caption.batch_size,
            num_gpus=part.gpus_caption,
            **actors,
        )
        # Embeddings, aesthetic score, similarity to the captions; the frames end here.
        .map_batches(
            EmbedStage,
            fn_constructor_args=(config, dim),
            batch_size=config.embed.batch_size,
            num_gpus=part.gpus_embed,
            **actors,
        )
    )
    yield from collect(rows.iter_rows(), dim)


def write_runs(plans: Sequence[RunPlan], manifest: Manifest) -> Iterator[tuple[RunPlan, Row | None, str | None]]:
    """Encode every plan; yields (plan, row of `runs`, null) or (plan, null, what went wrong)."""
    items = [{"index": index} for index in range(len(plans))]

    def write(row: Row) -> Row:
        try:
            return {**row, "run": json.dumps(write_planned_run(plans[row["index"]], root, config)), "error": ""}
        except CurationError as error:
            return {**row, "run": "", "error": str(error)}

    root, config = manifest.root, manifest.config.runs
    cpus = share(ray.cluster_resources().get("CPU", 1.0), 0.0).decode_cpus  # decoding and x264 run on one thread
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(write, num_cpus=cpus).iter_rows():
        yield plans[row["index"]], json.loads(row["run"]) if row["run"] else None, row["error"] or None
