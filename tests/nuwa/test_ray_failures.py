"""What is said of a training on Ray that failed. No cluster is started."""

from pathlib import Path

from nuwa.train.config import TrainConfig, TrainError


def test_a_defect_beside_lost_connections_is_no_loss() -> None:
    from ray.train.v2.api.exceptions import WorkerGroupError

    from nuwa.train.ray_trainer import _explained

    config = TrainConfig(stage="mtd", dataset=Path("ds"), output=Path("run"))
    lost, wrong = RuntimeError("gloo: Connection closed by peer"), KeyError("weight")
    error = WorkerGroupError("failed", {0: lost, 1: wrong})
    assert _explained(error, config) is error
    assert isinstance(_explained(WorkerGroupError("failed", {0: lost, 1: lost}), config), TrainError)
