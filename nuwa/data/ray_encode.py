"""Encoding by Ray Data: tasks go to actors that hold the networks; only their numbers come back.

Every actor writes its shards itself, so the folder must be the same place for all nodes. A lost actor is replaced and
its task done again.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuwa.data.ray_address import NoClusterError, cluster_address, first_line, start
from nuwa.data.shard_writer import Encoder, Task, TaskWorker, Written
from nuwa.data.whole_files import LatentsError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
import ray  # after the lines above: usage statistics stay off
import ray.data
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Batch = dict[str, Any]


class _Worker:
    """A TaskWorker behind the batches of Ray Data."""

    def __init__(self, load: Callable[[], Encoder], folder: Path) -> None:
        self.worker = TaskWorker(load, folder)

    def __call__(self, batch: Batch) -> Batch:
        done = [self.worker.do(pickle.loads(task)) for task in batch["task"]]
        return {
            "windows": np.array([each.windows for each in done]),
            "prompts": np.array([each.prompts for each in done]),
            "error": np.array([each.error or "" for each in done]),
            "hopeless": np.array([each.hopeless for each in done]),
        }


def encode(
    tasks: Sequence[Task],
    load: Callable[[], Encoder],
    folder: Path,
    *,
    device: str,
    needs: Sequence[Path],
    address: str | None = None,
    num_cpus: int | None = None,
) -> Iterator[Written]:
    """Do `tasks` on all of the cluster; what became of each, as they finish.

    load: makes the encoder, in each actor once; device: auto takes GPUs where the cluster has any
    needs: files and folders that every node must see
    address: of the cluster to join; without it RAY_ADDRESS, and without that one is started on this machine
    Raises LatentsError when the cluster cannot be reached or is lost, has no such device, or a node does not see a
    folder.
    """
    with _cluster(address, num_cpus):
        resources = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise LatentsError("device cuda: the cluster offers no GPU; use cpu or auto")
        _check_nodes(needs)
        cpus = resources.get("CPU", 1.0)
        items = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
        rows = items.map_batches(
            _Worker,
            fn_constructor_args=(load, folder.absolute()),
            batch_size=1,  # one shard per call, so that a lost actor costs one shard
            compute=ray.data.ActorPoolStrategy(size=max(1, min(gpus or int(cpus), len(tasks)))),
            # With GPUs an actor for each, and one CPU to decode for it; without, an actor for each CPU, whose networks
            # then run on one thread, which costs least.
            num_gpus=1 if gpus else 0,
            num_cpus=min(1.0, cpus),
        )
        for row in rows.iter_rows():
            yield Written(int(row["windows"]), int(row["prompts"]), str(row["error"]) or None, bool(row["hopeless"]))


@contextlib.contextmanager
def _cluster(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine and end it. LatentsError when it is lost."""
    address = cluster_address(address)
    mine = not ray.is_initialized()
    try:
        if mine:
            start(address, num_cpus)
    except NoClusterError as error:
        if address is None:
            raise LatentsError(
                f"Ray does not start on this machine ({error}); try again when it is less busy, or --engine local"
            ) from error
        raise LatentsError(
            f"no Ray cluster at {address} ({error}); check the address and, where the cluster wants one, the token"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the script shows windows, not blocks
    try:
        yield
    except RayTaskError:  # a defect keeps its traceback
        raise
    except RayError as error:
        raise LatentsError(
            f"Ray was lost ({first_line(error)}); what is finished is kept, and the same command goes on"
        ) from error
    finally:
        if mine:
            ray.shutdown()


def _check_nodes(needs: Sequence[Path]) -> None:
    """Raise LatentsError unless every node has this package and sees `needs`."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    names = [str(path.absolute()) for path in needs]
    seen = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        seen[node["NodeManagerAddress"]] = _unseen.options(scheduling_strategy=there).remote(names)
    for address, answer in seen.items():
        try:
            unseen = ray.get(answer)
        except RayTaskError as error:
            raise LatentsError(
                f"node {address} cannot run this program ({str(error).strip().splitlines()[-1]}); install it on every "
                "node, or submit the job with its folder: ray job submit --working-dir ."
            ) from error
        for name in unseen:
            raise LatentsError(
                f"node {address} does not see {name}; put it where every node sees it under this name, on a shared "
                "file system"
            )


@ray.remote(num_cpus=0)
def _unseen(names: Sequence[str]) -> list[str]:
    """Those of `names` that are not there on this node."""
    return [name for name in names if not Path(name).exists()]
