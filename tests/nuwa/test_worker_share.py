"""What each worker asks for: the most that lets all of them run at once."""

import pytest

from nuwa.generate.worker_share import fair_share, worker_device, worker_share
from nuwa.hierarchy import NuwaError


@pytest.mark.parametrize(
    ("amounts", "workers", "expected"),
    [
        ([2.0], 1, 2.0),
        ([2.0], 2, 1.0),
        ([2.0], 3, 0.6666),  # ten-thousandths, rounded down: three of 0.6667 would not fit
        ([1.0], 6, 0.1666),
        ([16.0], 3, 5.0),  # whole ones above one
        ([3.0, 3.0], 3, 1.0),  # 2 each would leave the third without a place
        ([8.0, 2.0], 3, 2.0),
        ([8.0, 1.0], 2, 4.0),
        ([0.0, 4.0], 2, 2.0),
        ([0.0], 2, 0.0),
    ],
)
def test_share_is_the_most_that_fits_for_all(amounts: list[float], workers: int, expected: float) -> None:
    assert fair_share(amounts, workers) == expected


def test_workers_share_gpus_and_leave_nodes_without_gpu_alone() -> None:
    nodes = [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert worker_share(nodes, 2, "cuda") == {"num_gpus": 1.0, "num_cpus": 1.0}
    assert worker_share(nodes, 3, "cuda") == {"num_gpus": 0.5, "num_cpus": 1.0}
    assert worker_share(nodes, 2, "cpu") == {"num_gpus": 0, "num_cpus": 32.0}
    assert worker_share([{"CPU": 1.0, "GPU": 8.0}], 4, "cuda") == {"num_gpus": 1.0, "num_cpus": 0.25}


def test_workers_are_where_the_gpus_are() -> None:
    mixed, plain = [{"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}], [{"CPU": 4.0}]
    assert [worker_device("auto", nodes) for nodes in (mixed, plain)] == ["cuda", "cpu"]
    assert worker_device("cpu", mixed) == "cpu"
    with pytest.raises(NuwaError, match="the cluster offers no GPU; use cpu or auto"):
        worker_device("cuda", plain)
