"""The training loop on Ray Train: the same loop in each worker, gradients averaged between them."""

import dataclasses
import os
import tempfile
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from nuwa.hierarchy import NuwaError
from nuwa.train.config import TrainConfig
from nuwa.train.loop import Progress, train


def fit(config: TrainConfig) -> None:
    """Run one stage with `config.workers` Ray Train workers on one cluster with a shared file system.

    Checkpoints are written by the loop into the run folder, so Ray's own storage holds nothing worth keeping.
    Raises NuwaError as the loop does.
    """
    started = not ray.is_initialized()
    if started:
        _start(config.ray_address)
    try:
        with tempfile.TemporaryDirectory(prefix="nuwa-ray-") as storage:
            trainer = TorchTrainer(
                _worker,
                train_loop_config=dataclasses.asdict(_absolute(config)),
                scaling_config=_scaling(config),
                run_config=RunConfig(name=config.output.name, storage_path=storage),
            )
            trainer.fit()
    except ray.train.v2.api.exceptions.TrainingFailedError as error:
        _raise_ours(error)
        raise
    finally:
        if started:
            ray.shutdown()


def _start(address: str | None) -> None:
    if address:
        ray.init(address=address)
    else:
        ray.init(include_dashboard=False, num_cpus=os.cpu_count())


def _absolute(config: TrainConfig) -> TrainConfig:
    """Workers have working directories of their own."""
    return dataclasses.replace(
        config,
        dataset=config.dataset.absolute(),
        output=config.output.absolute(),
        init=config.init.absolute() if config.init else None,
        text_encoder=config.text_encoder.absolute(),
    )


def _scaling(config: TrainConfig) -> ScalingConfig:
    """Each worker takes an equal share of the CPUs; on one machine all of them move."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    share = max(1, (config.threads or cpus) // config.workers)
    return ScalingConfig(num_workers=config.workers, use_gpu=use_gpu, resources_per_worker={"CPU": share})


def _worker(settings: dict) -> None:
    context = ray.train.get_context()
    torch.manual_seed(settings["seed"])
    train(TrainConfig(**settings), _report, rank=context.get_world_rank(), world=context.get_world_size())


def _report(progress: Progress) -> None:
    print(progress.line(), flush=True)


def _raise_ours(error: BaseException) -> None:
    """Raise the NuwaError of a worker, if that is what failed."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, NuwaError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
