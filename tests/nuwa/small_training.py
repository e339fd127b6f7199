"""What tests of training share: the settings of a few steps on small windows of `ds` and `tiny`, in this process."""

import dataclasses
from pathlib import Path

from nuwa.train.config import TrainConfig


def small_training(world: Path, output: Path, **changes: object) -> TrainConfig:
    """Four steps of stage mtd on two windows of 4 frames each, but for `changes`."""
    small = TrainConfig(
        stage="mtd",
        dataset=world / "ds",
        output=output,
        init=world / "tiny",
        length=4,
        steps=4,
        batch=2,
        warmup=2,
        log_every=1,
        threads=1,
        engine="local",
        precision="fp32",
    )
    return dataclasses.replace(small, **changes)  # type: ignore[arg-type]
