"""Windows on Ray actors: the same bits as in one process, also when workers are killed on the way."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import Progress, frame_plan, generate_frames, generate_latents
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.generate.ray_windows import RayExecutor, fair_share, worker_share
from nuwa.generate.windows import Sampling, WindowSampler
from nuwa.hierarchy import NuwaError
from tests.nuwa import stack

SAMPLING = Sampling(steps=3, guidance=2.0, seed=7, batch=2)
PLAN = frame_plan(["a red star"] * 15 + ["a blue circle jumps"] * 15, stack.LENGTH)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "model"
    save_pipeline(stack.build(), folder)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs of this machine for all tests that need no cluster of their own."""
    import ray

    ray.shutdown()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def local(model: Path) -> LocalExecutor:
    return LocalExecutor(WindowSampler(load_pipeline(model), SAMPLING))


@pytest.mark.ray
def test_two_workers_one_killed_on_the_way_make_the_same_bits(cluster: None, model: Path, local: LocalExecutor) -> None:
    killed: list[int] = []
    with closing(RayExecutor(model, SAMPLING, 2)) as executor:

        def kill(progress: Progress) -> None:
            if not killed and progress.windows_done == 4:
                killed.append(executor.pids[0])
                os.kill(killed[0], signal.SIGKILL)

        images = list(generate_frames(PLAN, executor, on_progress=kill))
        assert killed
        deadline = time.monotonic() + 60
        while len(executor.pids) < 2 and time.monotonic() < deadline:
            executor.decode(torch.zeros(1, 4, 5, 8, 8))
        assert killed[0] not in executor.pids
    np.testing.assert_array_equal(np.stack(images), np.stack(list(generate_frames(PLAN, local))))


@pytest.mark.ray
def test_latents_are_bitwise_those_of_one_process(cluster: None, model: Path, local: LocalExecutor) -> None:
    with closing(RayExecutor(model, SAMPLING, 2)) as executor:
        assert torch.equal(generate_latents(PLAN, executor), generate_latents(PLAN, local))
