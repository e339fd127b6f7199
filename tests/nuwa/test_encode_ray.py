"""Encoding by Ray Data: the same latents as in one process, also when a worker is lost on the way."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nuwa.data.latents import LatentFolder
from nuwa.data.prompt_tokens import PromptFolder
from nuwa.data.shard_writer import Written
from nuwa.hierarchy import NuwaError
from nuwa.train.encode_job import prepare, run
from nuwa.train.encoders import LoadEncoder, PipelineEncoder
from tests.nuwa.encoding import asked, cut_small, encoded_world, ignore, same_latents
from tests.nuwa.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoded_world(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs of this machine."""
    import ray

    ray.shutdown()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class LostOnce:
    """Loads like `load`, but kills the first process that asks, as the system does when memory runs out."""

    load: LoadEncoder
    mark: Path

    @property
    def hashes(self) -> tuple[str, str]:
        return self.load.hashes

    def __call__(self) -> PipelineEncoder:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.load()


@pytest.mark.ray
def test_ray_makes_the_same_latents_though_a_worker_is_lost(cluster: None, world: Path, tmp_path: Path) -> None:
    job = cut_small(prepare(asked(world, tmp_path / "latents", engine="ray")))
    vae, prompts = job.load.hashes
    job = dataclasses.replace(job, load=LostOnce(job.load, tmp_path / "lost"))  # type: ignore[arg-type]
    seen: list[Written] = []
    run(job, seen.append)
    assert (tmp_path / "lost").exists()
    assert sum(written.windows for written in seen) == job.windows
    assert same_latents(LatentFolder(tmp_path / "latents", vae), LatentFolder(world / "latents", vae))
    one, other = (PromptFolder(folder / "latents", prompts) for folder in (tmp_path, world))
    for prompt in job.prompts:
        assert np.allclose(one.read(prompt), other.read(prompt), atol=1e-5)
    assert prepare(asked(world, tmp_path / "latents", engine="ray")).tasks == ()


@pytest.mark.ray
def test_what_a_worker_finds_wrong_is_one_line(cluster: None, world: Path, tmp_path: Path) -> None:
    broken = write_dataset(tmp_path / "ds", [14, 11])
    (broken / "media/runs/run-0.mp4").write_bytes(b"no video")
    job = prepare(asked(world, tmp_path / "latents", dataset=broken, engine="ray"))
    with pytest.raises(NuwaError, match=r"run file \S+run-0\.mp4 cannot be decoded") as caught:
        run(job, ignore)
    assert "\n" not in str(caught.value)
    with pytest.raises(NuwaError, match="device cuda: the cluster offers no GPU; use cpu or auto"):
        run(prepare(asked(world, tmp_path / "latents", engine="ray", device="cuda")), ignore)


@pytest.mark.ray
def test_a_node_that_does_not_see_a_folder_is_named(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from nuwa.data import ray_encode

    both = ray.nodes() * 2
    monkeypatch.setattr(ray, "nodes", lambda: both)
    ray_encode._check_nodes([tmp_path])
    with pytest.raises(NuwaError, match=r"node \S+ does not see \S+elsewhere; put it where every node sees it"):
        ray_encode._check_nodes([tmp_path, tmp_path / "elsewhere"])


def test_a_cluster_that_is_not_there_is_one_line_at_once(world: Path, tmp_path: Path) -> None:
    import ray

    ray.shutdown()
    job = prepare(asked(world, tmp_path / "latents", engine="ray", ray_address="127.0.0.1:1"))
    with pytest.raises(NuwaError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*refused.*check the address") as caught:
        run(job, ignore)
    assert "\n" not in str(caught.value)


def test_a_machine_too_busy_for_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own patience ends in a bare Exception."""
    import ray

    from nuwa.data.ray_encode import _cluster
    from nuwa.generate.ray_windows import _connect

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    ray.shutdown()
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    busy = r"^Ray does not start on this machine \(The current node timed out during startup\.\); try again when"
    with pytest.raises(NuwaError, match=f"{busy} it is less busy, or --engine local$"), _cluster(None, 1):
        pass
    with pytest.raises(NuwaError, match=f"{busy} it is less busy$"):
        _connect(None)


def test_a_cluster_that_is_lost_on_the_way_is_one_line_and_a_defect_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.exceptions import NodeDiedError, RayTaskError

    from nuwa.data.ray_encode import _cluster

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with (
        pytest.raises(
            NuwaError, match=r"^Ray was lost \(a node died\); what .* is kept, and the same command goes on$"
        ),
        _cluster(None, 1),
    ):
        raise NodeDiedError("a node died\nwith its log")
    with pytest.raises(RayTaskError), _cluster(None, 1):
        raise RayTaskError("encode", "Traceback", ZeroDivisionError())
