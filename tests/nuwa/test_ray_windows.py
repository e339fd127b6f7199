"""Windows on Ray actors: the same bits as in one process, also when workers are killed on the way."""

import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import RayTaskError

from nuwa.generate import ray_windows
from nuwa.generate.executors import LocalExecutor, alone
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.long_video import Progress, frame_plan, generate_frames, generate_latents
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.generate.ray_windows import RayExecutor
from nuwa.generate.windows import FixedFrame, Sampling, WindowSampler, WindowTask
from nuwa.hierarchy import NuwaError, Window
from tests.nuwa import stack

SAMPLING = Sampling(steps=3, guidance=2.0, seed=7, batch=2)
PLAN = frame_plan(["a red star"] * 15 + ["a blue circle jumps"] * 15, stack.LENGTH)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Here and in every worker, however many CPUs it gets: sums over threads round as their number says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
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


@pytest.mark.ray
def test_the_killed_worker_of_a_decode_is_replaced(cluster: None, model: Path, local: LocalExecutor) -> None:
    latents = torch.randn(1, 4, 5, 8, 8)
    with closing(RayExecutor(model, SAMPLING, 1)) as executor:
        executor.decode(latents)
        (before,) = executor.pids
        os.kill(before, signal.SIGKILL)
        assert torch.equal(executor.decode(latents), local.decode(latents))
        assert executor.pids != [before]


@pytest.mark.ray
def test_a_worker_takes_no_other_weights_than_the_video_was_begun_with(
    cluster: None, model: Path, local: LocalExecutor, tmp_path: Path
) -> None:
    """Training puts another model there, then a worker is lost: the next one says so. Put back, the video goes on."""
    folder, begun_with = tmp_path / "model", tmp_path / "begun with"
    shutil.copytree(model, folder)
    with closing(RayExecutor(folder, SAMPLING, 1)) as executor:

        def replace(progress: Progress) -> None:
            if progress.windows_done == 4:
                folder.rename(begun_with)
                save_pipeline(stack.build(seed=1), folder)
                os.kill(executor.pids[0], signal.SIGKILL)

        with pytest.raises(NuwaError, match="has changed since this video was begun; put the one there") as caught:
            generate_latents(PLAN, executor, keep=FinishedWindows(tmp_path / "windows", ""), on_progress=replace)
    assert "\n" not in str(caught.value)
    shutil.rmtree(folder)
    begun_with.rename(folder)
    keep = FinishedWindows(tmp_path / "windows", "")
    assert keep.windows([window for level in PLAN.levels for window in level])
    with closing(RayExecutor(folder, SAMPLING, 1)) as executor:
        assert torch.equal(generate_latents(PLAN, executor, keep=keep), generate_latents(PLAN, local))


@pytest.mark.ray
def test_batches_that_wait_behind_another_are_taken_back(cluster: None, model: Path) -> None:
    """Only what runs is still to be collected, and the executor serves what is submitted next."""
    slow = Sampling(steps=40, batch=1)
    tasks = [WindowTask(Window(0, n, 0, 4), ("a star",) * 5) for n in range(4)]
    alone_there = LocalExecutor(WindowSampler(load_pipeline(model), slow))
    with closing(RayExecutor(model, slow, 1)) as executor:
        executor.decode(torch.zeros(1, 4, 5, 8, 8))  # now the worker is up
        for task in tasks:
            executor.submit([task], pixels=False)
        assert sorted(executor.withdraw()) == [task.window for task in tasks[1:]]
        assert [window for window, _ in executor.collect()] == [tasks[0].window]
        executor.submit([tasks[2]], pixels=False)
        alone_there.submit([tasks[2]], pixels=False)
        (window, found), (_, expected) = *executor.collect(), *alone_there.collect()
        assert window == tasks[2].window
        assert torch.equal(found.latents, expected.latents)
        assert executor.withdraw() == []


@pytest.mark.ray
@pytest.mark.slow  # three workers load the model and are lost
def test_a_batch_that_kills_every_worker_ends_in_one_line(
    cluster: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished stays, so that a smaller batch can go on."""
    keep = FinishedWindows(tmp_path, "")
    with closing(RayExecutor(model, SAMPLING, 1)) as executor:
        monkeypatch.setattr(ray_windows, "alone", lambda task: _deadly(task) if task.window.level == 2 else task)
        with pytest.raises(NuwaError, match=r"windows 0 to 1 of level 2 were lost 3 times with their worker") as caught:
            generate_latents(PLAN, executor, keep=keep)
    assert "\n" not in str(caught.value)
    assert sorted(path.name[0] for path in tmp_path.glob("*.safetensors")) == ["0", "1", "1"]


class _Exit:
    """Ends the process that unpickles it, as the system does when memory runs out."""

    def __reduce__(self):
        return os._exit, (1,)


def _deadly(task: WindowTask) -> WindowTask:
    return WindowTask(task.window, task.prompts, {**task.given, 1: _Exit()})  # type: ignore[dict-item]


def test_a_slice_of_a_long_clip_travels_alone() -> None:
    clip = torch.zeros(4, 1000, 8, 8), torch.zeros(3, 1000, 16, 16)
    task = WindowTask(Window(1, 0, 0, 1), ("a star",) * 5, {0: FixedFrame(clip[0][:, 7], clip[1][:, 7])})
    assert len(pickle.dumps(task)) > 1_000_000
    assert len(pickle.dumps(alone(task))) < 10_000


@pytest.mark.ray
def test_what_is_wrong_with_the_model_is_said_as_in_one_process(cluster: None, tmp_path: Path) -> None:
    with (
        pytest.raises(NuwaError, match=r"there is no pipeline folder .*nowhere") as caught,
        closing(RayExecutor(tmp_path / "nowhere", SAMPLING, 2, weights_sha256="0")) as executor,
    ):
        generate_latents(PLAN, executor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_one_line_at_once(model: Path, address: str) -> None:
    import ray

    ray.shutdown()
    with pytest.raises(NuwaError, match=f"no Ray cluster at {address} .*refused.*check the address") as caught:
        RayExecutor(model, SAMPLING, 2, address=address)
    assert "\n" not in str(caught.value)


def test_no_worker_is_refused(model: Path) -> None:
    with pytest.raises(NuwaError, match="0 workers make no video"):
        RayExecutor(model, SAMPLING, 0)


@pytest.fixture
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """A head and a second node with one CPU each, and the second."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow  # two nodes of a cluster start and one is lost
def test_a_node_lost_on_the_way_costs_no_bit(two_nodes: tuple[Any, Any], model: Path, local: LocalExecutor) -> None:
    cluster, second = two_nodes
    lost: list[int] = []
    with closing(RayExecutor(model, SAMPLING, 2, address=cluster.address)) as executor:

        def lose(progress: Progress) -> None:
            if not lost and len(executor.pids) == 2:
                lost.append(progress.windows_done)
                cluster.remove_node(second, allow_graceful=False)

        latents = generate_latents(PLAN, executor, on_progress=lose)
    assert lost
    assert torch.equal(latents, generate_latents(PLAN, local))


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_with_another_model_is_named_before_any_work(
    two_nodes: tuple[Any, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_windows, "weights_fingerprint", lambda folder: str(os.getpid()))  # each sees its own
    with pytest.raises(NuwaError, match=r"node .* has other weights in the pipeline folder .*copy it there") as caught:
        RayExecutor(model, SAMPLING, 2, address=two_nodes[0].address)
    assert "\n" not in str(caught.value)


def test_a_node_without_the_package_is_told_what_to_do() -> None:
    error = RayTaskError(
        "load", "RuntimeError: failed to import\nModuleNotFoundError: No module named 'nuwa'", ImportError()
    )
    with pytest.raises(
        NuwaError, match=r"cannot run this program \(No module named 'nuwa'\); install it on every node"
    ):
        ray_windows._raise_ours(error)
    with pytest.raises(RayTaskError):
        ray_windows._raise_ours(RayTaskError("load", "ZeroDivisionError", ZeroDivisionError()))
