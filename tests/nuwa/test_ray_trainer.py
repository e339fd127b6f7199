"""Training on Ray Train: what is lost is done again, what is wrong ends it at once, in one line."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.processes import descendants
from nuwa.hierarchy import NuwaError
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.run_folder import steps_in
from tests.nuwa.vae_training import made as made_here
from tests.nuwa.vae_training import stored, write_world
from tests.nuwa.worker_processes import train_together

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    return resolve(made_here(world, output, **({"engine": "ray", "workers": 2, "log_every": 100} | changes)))


def kill_a_worker(run: Path, after: int) -> threading.Thread:
    """kill -9 one of the workers of this process once the checkpoint of step `after` is there."""

    def strike() -> None:
        deadline = time.monotonic() + 300.0
        while time.monotonic() < deadline and not [step for step in steps_in(run / "checkpoints") if step >= after]:
            time.sleep(0.02)
        found = [process for process in descendants(os.getpid()) if "RayTrainWorker" in process.command]
        found[-1].kill()

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_a_training_in_peace(
    world: Path, tmp_path: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    from nuwa.train.ray_trainer import fit

    changes = {"steps": 24, "checkpoint_every": 4}
    striker = kill_a_worker(tmp_path / "run", after=4)
    fit(made(world, tmp_path / "run", **changes))
    striker.join()
    said = capfd.readouterr().out
    assert said.count("all go on from the newest checkpoint") == 1
    assert "step 24/24" in said
    train_together(made(world, tmp_path / "calm", **changes), 2, tmp_path)
    calm, run = stored(tmp_path / "calm"), stored(tmp_path / "run")
    assert all(torch.equal(calm[name], run[name]) for name in calm)  # one thread each


def test_losses_used_up_are_one_line_and_the_same_command_goes_on(world: Path, tmp_path: Path, cluster: None) -> None:
    from nuwa.train.ray_trainer import fit

    config = made(world, tmp_path / "run", steps=40, checkpoint_every=1, max_failures=0, workers=1)
    striker = kill_a_worker(tmp_path / "run", after=2)
    with pytest.raises(TrainError, match=r"^a worker was lost \(.*\), and max_failures is 0; .* goes on$") as caught:
        fit(config)
    striker.join()
    assert "\n" not in str(caught.value)
    assert steps_in(tmp_path / "run/checkpoints")


def test_what_the_user_must_change_is_not_tried_again(
    world: Path, tmp_path: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    from nuwa.train.ray_trainer import fit

    with pytest.raises(NuwaError, match="no run is long enough for stride 27") as caught:
        fit(made(world, tmp_path / "run", depth=4))
    assert "\n" not in str(caught.value)
    assert "go on" not in capfd.readouterr().out


@pytest.mark.parametrize("source", ["--ray-address", "RAY_ADDRESS"])
def test_an_address_where_nobody_listens_is_one_line(world: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    from nuwa.train.ray_trainer import fit

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    asked = {"ray_address": address}
    if source == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
        asked = {}
    began = time.monotonic()
    with pytest.raises(TrainError, match=f"^no Ray cluster at {address} .*refused.*; check {source} and") as caught:
        fit(made(world, Path("unused"), **asked))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("kind", [Exception, RuntimeError, ValueError, OSError])
def test_a_machine_too_busy_for_ray_is_one_line(
    monkeypatch: pytest.MonkeyPatch, world: Path, kind: type[Exception]
) -> None:
    import ray

    from nuwa.train import ray_trainer

    def init(**_: object) -> None:
        raise kind("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    message = r"^Ray does not start on this machine \(The current node timed out during startup\.\); try again"
    with pytest.raises(TrainError, match=message):
        ray_trainer._start(made(world, Path("unused")))


def test_a_cluster_that_somebody_else_started_here_is_left_alone(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    """Without an address Ray joins the cluster that `ray start` left on this machine, and refuses settings for it."""
    import ray

    from nuwa.train import ray_trainer

    asked: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **settings: asked.update(settings))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray_trainer._start(made(world, Path("unused")))
    assert asked["address"] == "local"
    asked.clear()
    monkeypatch.setattr("nuwa.data.ray_address.knock", lambda address: None)
    ray_trainer._start(made(world, Path("unused"), ray_address="head:6379"))
    assert asked["address"] == "head:6379"
    assert "num_cpus" not in asked


def test_ctrl_c_stays_an_interrupt_where_ray_leaves_as_if_all_were_done() -> None:
    from nuwa.train.ray_trainer import _own_interrupt

    def leave() -> None:
        with _own_interrupt():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Ray Train puts a handler of its own there
            raise SystemExit(0)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert signal.getsignal(signal.SIGINT) is before


class Blind:
    """A task that misses one thing on every node."""

    def __init__(self, name: str) -> None:
        self.name = name

    def options(self, **_: object) -> "Blind":
        return self

    def remote(self, paths: dict[str, Path]) -> list[str]:
        assert all(path.exists() for path in paths.values())
        return [name for name in paths if name == self.name]


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_node_that_does_not_see_the_run_folder_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    import ray

    from nuwa.train import ray_trainer

    nodes = [{"Alive": True, "NodeID": n * 56, "NodeManagerAddress": f"10.0.0.{n}"} for n in "12"]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "get", lambda seen: seen)
    if has_begun:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.json").write_text("{}")
    config = made(world, tmp_path / "run")
    for missing, path in (("output", "run"), ("init", "tiny")):
        monkeypatch.setattr(ray_trainer, "_unseen", Blind(missing))
        message = rf"^node 10\.0\.0\.1 does not see the {missing} .*/{path} of this one; put it on a file system"
        with pytest.raises(TrainError, match=message):
            ray_trainer._check_nodes(config)
    assert (tmp_path / "run").exists() == has_begun
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"] * has_begun
    monkeypatch.setattr(ray_trainer, "_unseen", Blind("latents"))
    ray_trainer._check_nodes(config)  # none are asked for
    monkeypatch.setattr(ray, "nodes", lambda: nodes[:1])
    monkeypatch.setattr(ray_trainer, "_unseen", Blind("output"))
    ray_trainer._check_nodes(config)


def test_each_worker_takes_its_share_of_a_node(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from nuwa.train import ray_trainer

    def scaling(nodes: list[dict[str, float]], **changes: object) -> dict[str, float]:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": offers} for offers in nodes])
        return dict(ray_trainer._scaling(made(world, Path("unused"), batch=12, **changes)).resources_per_worker)

    assert scaling([{"CPU": 8}], threads=None) == {"CPU": 4}
    assert scaling([{"CPU": 8}], threads=1) == {"CPU": 1}
    assert scaling([{"CPU": 2}], workers=4, threads=None) == {"CPU": 0.5}
    assert scaling([{"CPU": 4}, {"CPU": 2}], workers=1, threads=None) == {"CPU": 4}
    assert scaling([{"CPU": 8, "GPU": 2}], threads=None) == {"CPU": 1, "GPU": 1}
    with pytest.raises(TrainError, match=r"workers is 3, but the cluster has 2 GPUs, .*give --workers 2"):
        scaling([{"CPU": 8, "GPU": 2}], workers=3)


def test_no_path_of_this_installation_travels_to_the_workers(tmp_path: Path) -> None:
    """They may have theirs elsewhere, with a text encoder in it."""
    from nuwa.train import ray_trainer

    config = ray_trainer._absolute(TrainConfig(stage="mtd", dataset=tmp_path / "ds", output=tmp_path / "run"))
    paths = {name: value for name, value in vars(config).items() if isinstance(value, Path)}
    assert paths == {"dataset": tmp_path / "ds", "output": tmp_path / "run"}
