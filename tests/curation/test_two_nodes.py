"""A cluster of two nodes, one of which dies on the way: the same rows as on one node."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from curation import job, pipeline
from curation.config import CurationConfig
from curation.store import Store
from curation.verify import verify
from curation.video import write_video
from tests.curation.conftest import two_scenes
from tests.curation.tables import assert_same_tables

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_VIDEOS = 12


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for n in range(NUM_VIDEOS):
        write_video(folder / f"{n:02d}.mp4", two_scenes(n), fps=8.0)
    return folder


@pytest.fixture
def nodes() -> Iterator[tuple[object, object]]:
    """A head and a second node, each with two CPUs, joined by this process."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=2)
    try:
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_dies_on_the_way(
    nodes: tuple[object, object], films: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    cluster, second = nodes
    records = tmp_path / "disturbed" / "manifest" / "videos"
    killed: list[int] = []

    def kill() -> None:
        while len(list(records.rglob("*.json"))) < 2:
            time.sleep(0.1)
        killed.append(len(list(records.rglob("*.json"))))
        cluster.remove_node(second, allow_graceful=False)  # type: ignore[attr-defined]

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    where = job.Cluster(address=cluster.address)  # type: ignore[attr-defined]
    job.curate(str(films), str(tmp_path / "disturbed"), random_config, where)
    killer.join(1)
    assert killed
    assert killed[0] < NUM_VIDEOS
    job.curate(str(films), str(tmp_path / "alone"), random_config, where)
    assert_same_tables(tmp_path / "disturbed", tmp_path / "alone")
    assert verify(tmp_path / "disturbed") == []


def test_a_node_that_sees_other_files_is_named_before_any_work(
    nodes: tuple[object, object], films: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    ray.init(address=nodes[0].address)  # type: ignore[attr-defined]
    with pytest.raises(pipeline.ClusterError, match=r"cannot read .*nowhere"):
        pipeline.check_nodes(Store.at(tmp_path / "nowhere"), str(films / "00.mp4"))
