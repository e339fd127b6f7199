"""Windows on Ray actors, of this machine or of many: each loads the weights once, and only prompts, the latents and
pixels of given frames, and results travel.

A lost actor is replaced and its batches are done again. What a window becomes depends on nothing but its task, so the
video is bitwise that of one process on the same kind of device, at the same batch and number of CPU threads.
"""

import contextlib
import itertools
import os
import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from nuwa.data.ray_address import NoClusterError, cluster_address, start
from nuwa.generate.executors import LocalExecutor, alone
from nuwa.generate.pipeline import pick_device
from nuwa.generate.pipeline_folder import load_pipeline, weights_fingerprint
from nuwa.generate.windows import Sampling, WindowResult, WindowSampler, WindowTask
from nuwa.generate.worker_share import worker_device, worker_share
from nuwa.hierarchy import NuwaError, Window

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray  # after the line above: usage statistics stay off
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TRIES = 3
"""Workers that may be lost with one batch, or one after another while they start, before the video is given up."""

QUEUED = 2
"""Batches that a worker holds: the one it runs and one that waits, so that it never idles while results travel."""

START_S = 600.0
"""How long no worker at all may be there before the video is given up."""


class _Worker:
    """What an actor does. It decodes chunks of the final video beside the windows, not in line behind them."""

    def load(self, model: str, weights_sha256: str, sampling: Sampling, device: str) -> int:
        """Read the weights, no others than those; tells the process."""
        pipe = load_pipeline(model, weights_sha256=weights_sha256).to(pick_device(device))
        self.executor = LocalExecutor(WindowSampler(pipe, sampling))
        return os.getpid()

    def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[tuple[Window, WindowResult]]:
        self.executor.submit(tasks, pixels)
        return self.executor.collect()

    @ray.method(concurrency_group="decode")
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.executor.decode(latents)


@dataclass(eq=False)
class _Live:
    """An actor that has loaded its weights, and how many batches it holds."""

    actor: Any
    pid: int
    batches: int = 0


@dataclass
class _Batch:
    """Windows on their way, and how many workers were lost with them."""

    tasks: tuple[WindowTask, ...]
    pixels: bool
    lost: int = 0


class RayExecutor:
    """`workers` actors that each load the pipeline folder `model` and sample batches of `sampling.batch` windows.

    address: cluster to join; without it RAY_ADDRESS, and without that a cluster of this machine, ended by `close`
    device: of the workers; auto is cuda where the cluster has GPUs. Several workers may share a GPU.
    weights_sha256: of the folder as `weights_fingerprint` told it when the video was begun; default: as it is now

    The folder must be there under the same name on every node that may run a worker. Raises NuwaError when it is not,
    or holds other weights when a worker loads it, when the cluster cannot be reached, when no worker starts, and when a
    batch was lost with its worker too often.
    """

    def __init__(
        self,
        model: str | Path,
        sampling: Sampling,
        workers: int,
        *,
        address: str | None = None,
        device: str = "auto",
        weights_sha256: str | None = None,
    ) -> None:
        if workers < 1:
            raise NuwaError(f"{workers} workers make no video; give at least 1")
        self._model, self._sampling, self._workers = str(Path(model).absolute()), sampling, workers
        self._weights = weights_sha256 or weights_fingerprint(model)
        self._mine = _connect(address)
        self._lock = threading.RLock()  # decoding happens in threads of its own
        self._live: list[_Live] = []
        self._starting: dict[Any, Any] = {}  # reference to `load` → actor
        self._running: dict[Any, tuple[_Live, _Batch]] = {}
        self._waiting: deque[_Batch] = deque()
        self._turns, self._failed_starts = itertools.count(), 0
        with contextlib.ExitStack() as undone:
            undone.callback(self.close)
            nodes = [node for node in ray.nodes() if node["Alive"]]
            offers = [node["Resources"] for node in nodes]
            self._device = worker_device(device, offers)
            self._share = worker_share(offers, workers, self._device)
            check_nodes(nodes, self._model, self._weights, self._device)
            for _ in range(workers):
                self._start()
            undone.pop_all()  # all workers begin to load: from here on it is the owner who closes

    @property
    def batch(self) -> int:
        return self._sampling.batch

    @property
    def in_flight(self) -> int:
        return self._workers

    @property
    def pids(self) -> list[int]:
        """Processes of the workers that are up."""
        return [worker.pid for worker in self._live]

    def submit(self, tasks: Sequence[WindowTask], pixels: bool) -> None:
        with self._lock:
            self._waiting.append(_Batch(tuple(alone(task) for task in tasks), pixels))
            self._hand_out()

    def collect(self) -> list[tuple[Window, WindowResult]]:
        while True:
            ref = self._ready([*self._running, *self._starting])
            with self._lock:
                if ref in self._starting:
                    self._welcome(ref)
                elif ref in self._running and (done := self._finish(ref)):
                    return done

    def withdraw(self) -> list[Window]:
        with self._lock:
            dropped = list(self._waiting)
            self._waiting.clear()
            for ref in self._queued():
                worker, batch = self._running.pop(ref)
                worker.batches -= 1
                ray.cancel(ref)
                dropped.append(batch)
        return [task.window for batch in dropped for task in batch.tasks]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        for _ in range(TRIES):
            worker = self._any_live()
            try:
                return ray.get(worker.actor.decode.remote(latents.clone()))
            except RayTaskError as error:
                _raise_ours(error)
            except RayError:
                with self._lock:
                    self._replace(worker)
        raise NuwaError(f"{TRIES} workers were lost while decoding; {_MEMORY}")

    def close(self) -> None:
        if ray.is_initialized():
            for actor in (*self._starting.values(), *(worker.actor for worker in self._live)):
                ray.kill(actor)
        self._live, self._starting, self._running = [], {}, {}
        self._waiting.clear()
        if self._mine:
            ray.shutdown()

    def _start(self) -> None:
        options = {"max_restarts": 0, "concurrency_groups": {"decode": 1}, **self._share}
        actor = ray.remote(**options)(_Worker).remote()
        self._starting[actor.load.remote(self._model, self._weights, self._sampling, self._device)] = actor

    def _ready(self, refs: list[Any]) -> Any:
        """One of `refs` that is ready; NuwaError when no worker comes up."""
        assert refs, "nothing was submitted"
        ready, _ = ray.wait(refs, num_returns=1, timeout=None if self._live else START_S)
        if not ready:
            share = ", ".join(f"{amount:g} {name[4:].upper()}" for name, amount in self._share.items())
            raise NuwaError(
                f"no worker could start within {START_S:g} s, each asks for {share} and the cluster has free: "
                f"{_free()}; wait for other jobs or give fewer workers"
            )
        return ready[0]

    def _welcome(self, ref: Any) -> None:
        """A worker has loaded the weights, or has failed to."""
        actor = self._starting.pop(ref)
        try:
            self._live.append(_Live(actor, ray.get(ref)))
        except RayTaskError as error:
            ray.kill(actor)  # else it holds its share for as long as somebody holds the error
            _raise_ours(error)
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= TRIES:
                raise NuwaError(f"{TRIES} workers were lost while they loaded {self._model}; {_MEMORY}") from error
            self._start()
        else:
            self._failed_starts = 0
            self._hand_out()

    def _finish(self, ref: Any) -> list[tuple[Window, WindowResult]]:
        """Results of a batch; empty when its worker was lost and the batch is to be done again."""
        worker, batch = self._running.pop(ref)
        worker.batches -= 1
        try:
            return ray.get(ref)
        except RayTaskError as error:
            _raise_ours(error)
        except RayError as error:
            batch.lost += 1
            if batch.lost >= TRIES:
                first, last = batch.tasks[0].window, batch.tasks[-1].window
                raise NuwaError(
                    f"windows {first.index} to {last.index} of level {first.level} were lost {TRIES} times with their "
                    f"worker; {_MEMORY}"
                ) from error
            self._waiting.appendleft(batch)
            self._replace(worker)
            return []
        finally:
            self._hand_out()

    def _queued(self) -> list[Any]:
        """References to the batches that wait behind the one their worker runs."""
        running, first = list(self._running), dict[_Live, Any]()  # in the order they were handed out
        done = ray.wait(running, num_returns=len(running), timeout=0, fetch_local=False)[0] if running else []
        return [ref for ref in running if ref not in done and first.setdefault(self._running[ref][0], ref) is not ref]

    def _replace(self, worker: _Live) -> None:
        """Start another worker in the place of a lost one, which several of its calls may tell of."""
        if worker in self._live:
            self._live.remove(worker)
            ray.kill(worker.actor)  # it may only be out of reach, and holds its share
            self._start()

    def _hand_out(self) -> None:
        """Give waiting batches to the workers that hold the fewest."""
        while self._waiting and self._live:
            worker = min(self._live, key=lambda live: live.batches)
            if worker.batches >= QUEUED:
                return
            batch = self._waiting.popleft()
            worker.batches += 1
            self._running[worker.actor.sample.remote(batch.tasks, batch.pixels)] = (worker, batch)

    def _any_live(self) -> _Live:
        """Workers in turn; waits for one to come up when there is none."""
        with self._lock:
            while not self._live:
                self._welcome(self._ready(list(self._starting)))
            return self._live[next(self._turns) % len(self._live)]


_MEMORY = "often memory is short: give a smaller batch or fewer workers. What is finished is kept"


def _connect(address: str | None) -> bool:
    """Join a cluster, or start one on this machine; true when `ray.shutdown` falls to us."""
    if ray.is_initialized():
        return False
    address = cluster_address(address)
    try:
        start(address)
    except NoClusterError as error:
        if address is None:
            raise NuwaError(f"Ray does not start on this machine ({error}); try again when it is less busy") from error
        raise NuwaError(
            f"no Ray cluster at {address} ({error}); check the address and, where the cluster wants one, the token"
        ) from error
    return True


def _free() -> str:
    free = ray.available_resources()
    return ", ".join(f"{free.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


def check_nodes(nodes: Sequence[dict[str, Any]], model: str, weights_sha256: str, device: str) -> None:
    """Raise NuwaError unless all of `nodes` that may run a worker have the folder `model` with these weights."""
    nodes = [node for node in nodes if node["Resources"].get("GPU" if device == "cuda" else "CPU", 0) > 0]
    if len(nodes) == 1:
        return  # the worker itself says what is wrong
    seen = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        seen[node["NodeManagerAddress"]] = _fingerprint.options(scheduling_strategy=there).remote(model)
    for address, answer in seen.items():
        try:
            found = ray.get(answer)
        except RayTaskError as error:
            _raise_ours(error)
        if found != weights_sha256:
            what = "has no" if found is None else "has other weights in the"
            raise NuwaError(
                f"node {address} {what} pipeline folder {model}; copy it there under the same name, or put it on a "
                "file system that all nodes share"
            )


@ray.remote(num_cpus=0)
def _fingerprint(model: str) -> str | None:
    """Of the folder as this node sees it; null when it sees none."""
    with contextlib.suppress(NuwaError, OSError):
        return weights_fingerprint(model)
    return None


def _raise_ours(error: RayTaskError) -> NoReturn:
    """Raise what a worker raised: a NuwaError as itself, and as one a node that lacks this package."""
    if isinstance(error.cause, NuwaError):
        raise NuwaError(str(error.cause)) from error
    lacking = re.search(r"No module named '[\w.]+'", str(error))
    if lacking:
        raise NuwaError(
            f"a node of the cluster cannot run this program ({lacking[0]}); install it on every node, or submit the "
            "job with its folder: ray job submit --working-dir ."
        ) from error
    raise error
