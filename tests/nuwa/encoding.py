"""A tiny dataset, pipeline and folder of latents, and the settings that fit them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from nuwa.data.encode_plan import ShardTask
from nuwa.data.latents import LatentFolder
from nuwa.data.shard_writer import Task
from nuwa.generate.pipeline_folder import save_pipeline
from nuwa.train.config import TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.encode_config import EncodeConfig
from nuwa.train.encode_job import EncodeJob, prepare, run
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

HALF = 2e-3
"""A step of half precision at the size of these latents: what the order of sums may change."""
LENGTH = 4
LENGTHS = [14, 11]
"""Frames of the runs: 5 + 2 windows of 4 frames at stride 3, 11 + 8 at stride 1."""


def encoded_world(session: Path) -> Path:
    """`ds`, a dataset, `tiny`, a random pipeline, and `latents` of both: windows of 4 frames, and single frames.

    Made once for all tests of a session, below its folder; nobody changes it.
    """
    folder = session / "encoded-world"
    if folder.exists():
        return folder
    write_dataset(folder / "ds", LENGTHS)
    pipe = build()
    pipe.vae.register_to_config(scaling_factor=0.7)
    save_pipeline(pipe, folder / "tiny")
    for stage in ("mtd", "image"):
        run(prepare(asked(folder, folder / "latents", stage=stage)), ignore)
    return folder


def asked(world: Path, output: Path, **changes: object) -> EncodeConfig:
    """Windows of 4 frames of `ds`, or single frames, encoded in this process."""
    length = None if changes.get("stage") == "image" else LENGTH
    config = EncodeConfig(
        stage="mtd", dataset=world / "ds", model=world / "tiny", output=output, length=length, engine="local"
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    """A training of two steps on `ds`."""
    length = None if changes.get("stage") == "image" else LENGTH
    return resolve(small_training(world, output, **({"length": length, "steps": 2, "batch": 4} | changes)))


def ignore(_: object) -> None:
    """No output."""


def without_footage(world: Path, folder: Path) -> Path:
    """The dataset without its run files."""
    copied = Path(shutil.copytree(world / "ds", folder / "tables"))
    shutil.rmtree(copied / "media")
    return copied


def cut_small(job: EncodeJob) -> EncodeJob:
    """The same job in more tasks: one for each piece."""
    cut: list[Task] = [task for task in job.tasks if not isinstance(task, ShardTask)]
    for task in job.tasks:
        if isinstance(task, ShardTask):
            cut += [dataclasses.replace(task, pieces=(piece,)) for piece in task.pieces]
    return dataclasses.replace(job, tasks=tuple(cut))


def same_latents(one: LatentFolder, other: LatentFolder) -> bool:
    """Whether two folders hold the same windows, with the same latents but for rounding."""
    keys = [(*key, first) for key in one._places for first in one.firsts(*key).tolist()]
    assert one._places.keys() == other._places.keys()
    pairs = [(one.read(s, first, stride, m), other.read(s, first, stride, m)) for s, stride, m, first in keys]
    return all(a is not None and b is not None and np.allclose(a, b, atol=HALF) for a, b in pairs)
