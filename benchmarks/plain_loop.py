"""What the pipeline does to a video, in a plain loop on worker processes: the measure of what Ray adds."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow as pa

from curation.config import CurationConfig
from curation.manifest import rows_to_table
from curation.model_files import embedding_dim
from curation.stage_graph import GRAPH
from curation.store import Store

_work: list[Callable[[str], int]] = []
"""The work of this process on one video, set once when it starts."""
_all_here: list[Barrier] = []
LONGEST_START_S = 600.0
INPUT = pa.schema(
    [("uri", pa.string()), ("sha256", pa.string()), ("record", pa.string()), ("stale", pa.list_(pa.string()))]
)


def loop_seconds(paths: Sequence[Path], config: CurationConfig, workers: int = 2) -> float:
    """Wall time of all videos on so many processes, once every process has loaded its models and done one video."""
    context = multiprocessing.get_context("spawn")
    met = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, _load, (config, met)) as pool:
        for warm in [pool.submit(_warm_up, str(paths[0])) for _ in range(workers)]:
            warm.result()
        began = time.perf_counter()
        clips = sum(pool.map(_one, map(str, paths)))
        took = time.perf_counter() - began
    assert clips > 0, "no video of the loop has a clip"
    return took


def _load(config: CurationConfig, met: Barrier) -> None:
    _work.append(_stages(config))
    _all_here.append(met)


def _warm_up(path: str) -> None:
    """Waits for the others, so that each process does one."""
    _one(path)
    _all_here[0].wait(LONGEST_START_S)


def _one(path: str) -> int:
    return _work[0](path)


def _stages(config: CurationConfig) -> Callable[[str], int]:
    """The functions of the pipeline's operators, one after another; the result is the number of clips."""
    from curation.operators import CaptionStage, EmbedStage, TextStage, analyse, merge_captions, without_pictures

    dim = embedding_dim(config.embed)
    text, captions, embed = TextStage(config, dim), CaptionStage(config, dim), EmbedStage(config, dim)
    store = Store.at("/nonexistent")  # nothing is known of these videos, so nothing is read from it

    def work(path: str) -> int:
        batch = rows_to_table([{"uri": path, "stale": list(GRAPH)}], INPUT)
        count = 0
        for block in analyse(batch, config, dim, store):
            done = without_pictures(embed(merge_captions(captions(text(block)), config, dim)))
            count += sum(row is not None for row in done["clip_id"].to_pylist())
        return count

    return work
