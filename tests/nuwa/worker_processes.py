"""Trainings by several workers without Ray: forked processes of one thread each that talk by gloo."""

import dataclasses
import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from nuwa.train.config import TrainConfig
from nuwa.train.loop import train

PATIENCE_S = 120.0


def together(workers: int, folder: Path, job: Callable[[int], Any]) -> list[Any]:
    """What `job(rank)` returns in each of `workers` processes of one process group; its exceptions are raised here.

    The processes are forks, so `job` may be any function; what it returns is pickled.
    """
    meeting = folder / f"meeting-{len(list(folder.glob('meeting-*')))}"
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    forks = [
        context.Process(target=_run, args=(rank, workers, meeting, job, pipes[rank][1]), daemon=True)
        for rank in range(workers)
    ]
    for fork in forks:
        fork.start()
    try:
        answers = [_answer(receiving, fork) for (receiving, _), fork in zip(pipes, forks, strict=True)]
    finally:
        for fork in forks:
            fork.kill()
            fork.join()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def train_together(config: TrainConfig, workers: int, folder: Path, *, until: int | None = None) -> None:
    """`train` by `workers` workers, as Ray Train would start them."""
    shared = dataclasses.replace(config, workers=workers, engine="ray")
    together(workers, folder, lambda rank: train(shared, lambda _: None, rank=rank, world=workers, until=until))


def _run(rank: int, workers: int, meeting: Path, job: Callable[[int], Any], answers: Connection) -> None:
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers, timeout=timedelta(seconds=60)
        )
        answers.send_bytes(pickle.dumps(job(rank)))  # the pipe's own pickling leaves tensors with the process
    except BaseException as error:  # noqa: BLE001  # told to the test, which raises it
        traceback.print_exc()
        answers.send_bytes(pickle.dumps(error))


def _answer(receiving: Connection, fork: Any) -> Any:
    if not receiving.poll(PATIENCE_S):
        return TimeoutError(f"process {fork.pid} has not answered within {PATIENCE_S:g} s")
    try:
        return pickle.loads(receiving.recv_bytes())
    except EOFError:
        fork.join()
        return ChildProcessError(f"process {fork.pid} ended with {fork.exitcode}")
