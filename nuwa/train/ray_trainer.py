"""The training loop on Ray Train: the same loop in each worker, gradients averaged between them.

A worker that is lost takes the others with it; all begin again from the newest checkpoint in the run folder, by
themselves, as often as `max_failures` says. What the user must change ends the training at once.
"""

import dataclasses
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.train
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nuwa.data.ray_address import NoClusterError, cluster_address, first_line, start
from nuwa.generate.worker_share import worker_share
from nuwa.hierarchy import NuwaError
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.loop import train
from nuwa.train.run_folder import NODE_MARK

STARTS = 10
"""How often, of a minute each, Ray tries to find room for the workers."""


def fit(config: TrainConfig) -> None:
    """Run one stage with `config.workers` Ray Train workers, which share a file system.

    Checkpoints are written by the loop into the run folder, so Ray's own storage holds nothing worth keeping.
    Raises NuwaError as the loop does, and when the cluster cannot be reached, has no room, does not see the run folder
    on every node, or has lost more workers than `config.max_failures` allows.
    """
    config = _absolute(config)
    started = not ray.is_initialized()
    if started:
        _start(config)
    try:
        _check_nodes(config)
        with _printed() as lines, _own_interrupt():
            _fit(config, _scaling(config), lines)
    except TrainingFailedError as error:
        raise _explained(error, config) from error
    except RayTaskError:
        raise
    except RayError as error:
        raise TrainError(f"Ray was lost ({first_line(error)}); the same command goes on") from error
    finally:
        if started:
            ray.shutdown()


def _absolute(config: TrainConfig) -> TrainConfig:
    """Workers have working directories of their own."""
    paths = {name: value.absolute() for name, value in vars(config).items() if isinstance(value, Path)}
    return dataclasses.replace(config, **paths)  # type: ignore[arg-type]  # only fields that were paths


def _start(config: TrainConfig) -> None:
    """Join a cluster, or start one here without the processes that nothing here needs."""
    address = cluster_address(config.ray_address)
    try:
        start(address)
    except NoClusterError as error:
        if address is None:
            raise TrainError(
                f"Ray does not start on this machine ({error}); try again when it is less busy, or --engine local"
            ) from error
        source = "--ray-address" if config.ray_address else "RAY_ADDRESS"
        raise TrainError(
            f"no Ray cluster at {address} ({error}); check {source} and, where the cluster wants one, the token"
        ) from error


def _fit(config: TrainConfig, scaling: ScalingConfig, lines: Queue) -> None:
    with tempfile.TemporaryDirectory(prefix="nuwa-ray-") as storage:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config, "lines": lines},
            scaling_config=scaling,
            run_config=RunConfig(
                name=config.output.name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=STARTS),
                callbacks=[_Watch(lines)],
            ),
        )
        trainer.fit()


def _scaling(config: TrainConfig) -> ScalingConfig:
    """An equal share of the cluster for each worker: a GPU where there are any, else CPUs."""
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(offer.get("GPU", 0)) for offer in offers)
    if 0 < gpus < config.workers:
        raise TrainError(
            f"workers is {config.workers}, but the cluster has {gpus} GPUs, and each worker takes one; "
            f"give --workers {gpus}"
        )
    share = worker_share(offers, config.workers, "cuda" if gpus else "cpu")
    cpus = min(share["num_cpus"], config.threads or share["num_cpus"])
    resources = {"CPU": cpus, "GPU": share["num_gpus"]} if gpus else {"CPU": cpus}
    return ScalingConfig(num_workers=config.workers, use_gpu=gpus > 0, resources_per_worker=resources)


def _worker(job: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    lines, context = job["lines"], ray.train.get_context()
    logging.getLogger("nuwa").addHandler(_ToQueue(lines))
    train(
        job["config"],
        lambda progress: lines.put(progress.line()),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
    )


class _Watch(UserCallback):
    """In Ray Train's controller: ends a training that cannot go on by itself, and tells of workers that were lost."""

    def __init__(self, lines: Queue) -> None:
        self.lines, self.lost = lines, 0

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raise the NuwaError of a worker: Ray would run into it again, as often as workers may be lost."""
        for error in worker_exceptions.values():
            if (ours := _ours(error)) is not None:
                raise ours
        self.lost += 1
        rank, error = min(worker_exceptions.items(), key=lambda each: _is_loss(each[1]))  # a loss may be its result
        line = f"warning: worker {rank} has failed ({_reason(error)}); all go on from the newest checkpoint"
        self.lines.actor.put.remote(line, None)  # its own `put` would wait, and hold up the controller


class _ToQueue(logging.Handler):
    """Sends a worker's warnings to the script that started it."""

    def __init__(self, lines: Queue) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _printed() -> Iterator[Queue]:
    """A queue for lines, which are printed to the last one."""
    lines, over = Queue(actor_options={"num_cpus": 0}), threading.Event()
    printer = threading.Thread(target=_print_lines, args=(lines, over), daemon=True)
    printer.start()
    try:
        yield lines
    finally:
        over.set()
        printer.join(timeout=10)


def _print_lines(lines: Queue, over: threading.Event) -> None:
    while True:
        try:
            print(lines.get(timeout=1.0), flush=True)
        except Empty:
            if over.is_set():
                return
        except RayError:  # the cluster is going down; `fit` says why
            return


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Ctrl-C stays an interrupt: Ray Train, having ended its workers, leaves as if all were done."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _check_nodes(config: TrainConfig) -> None:
    """Raise TrainError unless every node sees the run folder of this one, and what it is trained from."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    was_there = config.output.exists()
    mark = config.output / f"{NODE_MARK}{uuid4().hex}"
    named = {name: getattr(config, name) for name in ("dataset", "latents", "init", "lpips_weights")}
    needed = {name: path for name, path in named.items() if path is not None and path.exists()}
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        mark.touch()
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            missing = ray.get(_unseen.options(scheduling_strategy=there).remote({"output": mark, **needed}))
            if missing:
                raise TrainError(
                    f"node {node['NodeManagerAddress']} does not see the {missing[0]} {getattr(config, missing[0])} "
                    "of this one; put it on a file system that all nodes share"
                )
    except OSError as error:
        raise TrainError(f"output {config.output} cannot be written to ({error}); give another --output") from error
    finally:
        mark.unlink(missing_ok=True)
        if not was_there and config.output.exists():
            config.output.rmdir()


@ray.remote(num_cpus=0)
def _unseen(paths: Mapping[str, Path]) -> list[str]:
    """Names of those that are not there, seen from a node."""
    return [name for name, path in paths.items() if not path.exists()]


def _explained(error: TrainingFailedError, config: TrainConfig) -> Exception:
    """What to raise for a training that Ray has given up: one line, but for a defect, which keeps its traceback."""
    if isinstance(error, ControllerError):
        failure = error.controller_failure
        if "WorkerGroupStartup" in type(failure).__name__:
            reason = f"no room for the workers, or they died, {STARTS} times ({first_line(failure)})"
            return TrainError(f"{reason}; wait for other jobs, or give fewer --workers")
        return _ours(failure) or error
    failures = list(error.worker_failures.values())
    if not failures or not all(_is_loss(failure) for failure in failures):
        return error  # a defect in one worker takes the connections of the others with it
    return TrainError(
        f"a worker was lost ({_reason(failures[0])}), and max_failures is {config.max_failures}; often memory is "
        "short: give a smaller --batch or more --accumulate. What is finished is kept, and the same command goes on"
    )


def _ours(error: BaseException) -> NuwaError | None:
    """The NuwaError that caused an error, if one did."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NuwaError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause


def _is_loss(error: Exception) -> bool:
    """True where a process or a connection was lost, and nothing in the program was wrong."""
    cause = _cause(error)
    if isinstance(cause, RayError):
        return not isinstance(cause, RayTaskError)
    return isinstance(cause, RuntimeError) and any(word in str(cause) for word in ("gloo", "NCCL", "Connection"))


def _cause(error: Exception) -> Exception:
    """Why Ray Train could not reach a worker, where that is what it says."""
    return getattr(error, "health_check_failure", error)


def _reason(error: Exception) -> str:
    return first_line(_cause(error))
