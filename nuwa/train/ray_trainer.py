"""The training loop on Ray Train: the same loop in each worker, gradients averaged between them."""

import dataclasses
import logging
import os
import tempfile
import threading

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.exceptions
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Empty, Queue

from nuwa.hierarchy import NuwaError
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.loop import train


def fit(config: TrainConfig) -> None:
    """Run one stage with `config.workers` Ray Train workers, which share a file system.

    Checkpoints are written by the loop into the run folder, so Ray's own storage holds nothing worth keeping.
    Raises NuwaError as the loop does.
    """
    started = not ray.is_initialized()
    if started:
        _start(config)
    lines = Queue(actor_options={"num_cpus": 0})
    over = threading.Event()
    printer = threading.Thread(target=_print_lines, args=(lines, over), daemon=True)
    printer.start()
    try:
        _fit(config, lines)
    except TrainingFailedError as error:
        _raise_ours(error)
        raise
    finally:
        over.set()
        printer.join(timeout=10)
        if started:
            ray.shutdown()


def _start(config: TrainConfig) -> None:
    """Join the cluster of `ray_address`, or start one here without the processes that nothing here needs."""
    if config.ray_address:
        try:
            ray.init(address=config.ray_address, log_to_driver=False)
        except (ConnectionError, ray.exceptions.RaySystemError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TrainError(f"no Ray cluster at {config.ray_address} ({reason}); check --ray-address") from error
    else:
        cpus = os.cpu_count() or 1
        ray.init(include_dashboard=False, num_cpus=cpus, log_to_driver=False, logging_level=logging.WARNING)


def _fit(config: TrainConfig, lines: Queue) -> None:
    with tempfile.TemporaryDirectory(prefix="nuwa-ray-") as storage:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": _absolute(config), "lines": lines},
            scaling_config=_scaling(config),
            run_config=RunConfig(name=config.output.name, storage_path=storage),
        )
        trainer.fit()


def _absolute(config: TrainConfig) -> TrainConfig:
    """Workers have working directories of their own."""
    return dataclasses.replace(
        config,
        dataset=config.dataset.absolute(),
        output=config.output.absolute(),
        init=config.init.absolute() if config.init else None,
        text_encoder=config.text_encoder.absolute(),
        lpips_weights=config.lpips_weights.absolute() if config.lpips_weights else None,
    )


def _scaling(config: TrainConfig) -> ScalingConfig:
    """Each worker takes an equal share of the CPUs, at least one."""
    resources = ray.cluster_resources()
    cpus = config.threads or int(resources.get("CPU", 1))
    share = max(1, cpus // config.workers)
    use_gpu = resources.get("GPU", 0) >= config.workers
    return ScalingConfig(num_workers=config.workers, use_gpu=use_gpu, resources_per_worker={"CPU": share})


def _worker(job: dict) -> None:
    """What each Ray Train worker runs."""
    lines, context = job["lines"], ray.train.get_context()
    logging.getLogger("nuwa").addHandler(_ToQueue(lines))
    train(
        job["config"],
        lambda progress: lines.put(progress.line()),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
    )


class _ToQueue(logging.Handler):
    """Sends a worker's warnings to the script that started it."""

    def __init__(self, lines: Queue) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put(f"{record.levelname.lower()}: {record.getMessage()}")


def _print_lines(lines: Queue, over: threading.Event) -> None:
    """Print what the workers say, to the last line."""
    while True:
        try:
            print(lines.get(timeout=1.0), flush=True)
        except Empty:
            if over.is_set():
                return
        except ray.exceptions.RayError:  # the cluster is going down; `fit` says why
            return


def _raise_ours(error: TrainingFailedError) -> None:
    """Raise the NuwaError of a worker, if that is what failed."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, NuwaError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
