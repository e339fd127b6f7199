"""How long a training waits for data: the real loop, from footage and from latents that were made once."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from nuwa.train.config import TrainConfig
from nuwa.train.encode_config import EncodeConfig
from nuwa.train.encode_job import prepare, run
from nuwa.train.loop import train
from nuwa.train.progress import Progress

BATCH = 8
HOP = 64
"""Frames between windows: few of them, so that encoding them takes seconds."""


@dataclass(frozen=True)
class Waited:
    """Speed of one training, and the share of its time that no batch was there."""

    from_latents: bool
    batch: int
    steps: int
    step_s: float
    data_wait_frac: float


def waited(dataset: Path, model: Path, where: str, steps: int, work: Path) -> list[Waited]:
    """Train `model` on runs of `dataset` for `steps`, from footage and then from latents below `work`."""
    latents = work / "latents"
    encode = EncodeConfig(
        stage="mtd", dataset=dataset, model=model, output=latents, hop=HOP, where=where, engine="local"
    )
    run(prepare(encode), lambda _: None)
    return [_trained(dataset, model, where, steps, work / "run", each) for each in (None, latents)]


def _trained(dataset: Path, model: Path, where: str, steps: int, output: Path, latents: Path | None) -> Waited:
    """All but the first eighth of a training, which opens files and fills caches."""
    seen: list[Progress] = []
    shutil.rmtree(output, ignore_errors=True)
    config = TrainConfig(
        stage="mtd",
        dataset=dataset,
        latents=latents,
        output=output,
        init=model,
        hop=HOP,
        where=where,
        steps=steps,
        batch=BATCH,
        log_every=steps // 8,
        checkpoint_every=steps,
        threads=1,
        engine="local",
    )
    train(config, seen.append)
    shutil.rmtree(output)
    counted = [progress.scalars for progress in seen[1:]]
    seconds = [1.0 / scalars["steps_per_s"] for scalars in counted]
    waiting = [scalars["data_wait_frac"] * took for scalars, took in zip(counted, seconds, strict=True)]
    return Waited(latents is not None, BATCH, steps, sum(seconds) / len(seconds), sum(waiting) / sum(seconds))
