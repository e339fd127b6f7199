"""Latents made once: training from them equals training from footage, and what is missing is said in one line."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from nuwa.generate.pipeline_folder import save_pipeline
from nuwa.train.config import TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.encode_config import EncodeConfig
from nuwa.train.encode_job import prepare, run
from nuwa.train.loop import train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.stages import ImageStage
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")
LENGTH = 4
NO_OTHER_MASKS = {"first_frame_frac": 0.0, "prediction_frac": 0.0, "infilling_frac": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ds`, a dataset, `tiny`, a random pipeline, and `latents` of both for windows of 4 frames and single frames."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20])
    pipe = build()
    pipe.vae.register_to_config(scaling_factor=0.7)
    save_pipeline(pipe, folder / "tiny")
    for stage in ("mtd", "image"):
        run(prepare(asked(folder, folder / "latents", stage=stage)), ignore)
    return folder


def asked(world: Path, output: Path, **changes: object) -> EncodeConfig:
    config = EncodeConfig(stage="mtd", dataset=world / "ds", model=world / "tiny", output=output, engine="local")
    if changes.get("stage", "mtd") == "mtd":
        config = dataclasses.replace(config, length=LENGTH)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    small = TrainConfig(
        stage="mtd",
        dataset=world / "ds",
        output=output,
        init=world / "tiny",
        length=None if changes.get("stage") == "image" else LENGTH,
        steps=3,
        batch=4,
        warmup=2,
        log_every=1,
        threads=1,
        engine="local",
        precision="fp32",
    )
    return resolve(dataclasses.replace(small, **changes))  # type: ignore[arg-type]


def ignore(_: object) -> None:
    """No output."""


def without_footage(world: Path, folder: Path) -> Path:
    """The dataset without its run files."""
    copied = shutil.copytree(world / "ds", folder / "tables only")
    shutil.rmtree(copied / "media")
    return copied


def losses_of(config: TrainConfig) -> dict[int, float]:
    found: dict[int, float] = {}
    train(config, lambda progress: found.update({progress.step: progress.scalars["loss"]}))
    return found


@pytest.mark.parametrize("stage", ["mtd", "image"])
def test_training_from_latents_equals_training_from_footage(world: Path, tmp_path: Path, stage: str) -> None:
    """Also where some conditions are encoded from footage because they cannot be made before."""
    usual = losses_of(made(world, tmp_path / "usual", stage=stage))
    encoded = losses_of(made(world, tmp_path / "encoded", stage=stage, latents=world / "latents"))
    assert usual == pytest.approx(encoded, abs=1e-5)
    assert list(usual) == [1, 2, 3]


@pytest.mark.parametrize(
    ("stage", "changes"), [("mtd", NO_OTHER_MASKS), ("mtd", {"condition": "latents"}), ("image", {})]
)
def test_neither_footage_nor_autoencoder_is_needed(
    world: Path, tmp_path: Path, stage: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = losses_of(made(world, tmp_path / "usual", stage=stage, **changes))
    for kind in (MtdStage, ImageStage):
        monkeypatch.setattr(kind, "_encode", lambda *_: pytest.fail("the autoencoder was asked"))
    monkeypatch.setattr("nuwa.generate.pipeline.NuwaXLPipeline.encode_prompts", lambda *_: pytest.fail("and the text"))
    config = made(world, tmp_path / "encoded", stage=stage, latents=world / "latents", **changes)
    encoded = losses_of(dataclasses.replace(config, dataset=without_footage(world, tmp_path)))
    assert usual == pytest.approx(encoded, abs=1e-5)
