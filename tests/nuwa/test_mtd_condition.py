"""Training with either condition: the paper's encoding of the masked window, or the latent-space shortcut."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch

from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.generate.windows import FixedFrame, WindowTask, conditioning
from nuwa.hierarchy import Window
from nuwa.train.config import TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.stages import video_of
from tests.nuwa.stack import LENGTH, build
from tests.nuwa.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 30])
    save_pipeline(build(), folder / "tiny")
    return folder


def stage_of(world: Path, condition: Literal["pixels", "latents"]) -> MtdStage:
    config = TrainConfig(
        stage="mtd", dataset=world / "ds", output=Path("unused"), init=world / "tiny", length=LENGTH, depth=2
    )
    config = resolve(dataclasses.replace(config, condition=condition, engine="local", precision="fp32"))
    return MtdStage(config, load_pipeline(world / "tiny"), read_runs(world / "ds"), torch.device("cpu"))


@pytest.mark.parametrize("condition", ["pixels", "latents"])
def test_training_shows_the_denoiser_what_generation_does(
    world: Path, condition: Literal["pixels", "latents"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same frames given, the same condition: `Sampling(condition=…)` and `--condition` are one thing."""
    stage = stage_of(world, condition)
    sample = stage.data[0]
    positions = [0, LENGTH - 1]
    seen: list[torch.Tensor] = []

    def note(module: object, z0: torch.Tensor, tokens: object, draws: object, z_c: torch.Tensor, *_: object) -> object:
        seen.extend([z0, z_c])
        return z0.flatten(1).mean(dim=1)

    monkeypatch.setattr(stage.diffusion, "loss", note)
    monkeypatch.setattr(stage, "_given", lambda samples, draws: [tuple(n in positions for n in range(LENGTH))])
    stage.losses([sample], range(1))
    z0, z_c = seen
    pixels = video_of([sample], torch.device("cpu"))[0]
    given = {n: FixedFrame(z0[0, :, n], pixels[:, n]) for n in positions}
    with torch.no_grad():
        expected = conditioning(stage.pipe, [WindowTask(Window(1, 0, 0, 1), ("",) * LENGTH, given)], condition)[0]
    torch.testing.assert_close(z_c, expected, atol=2e-3, rtol=2e-3)  # training keeps latents in half precision


def test_the_shortcut_encodes_each_window_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    for condition in ("pixels", "latents"):
        stage = stage_of(world, condition)  # type: ignore[arg-type]
        calls: list[int] = []
        encode = stage.vae.encode

        def spy(video: torch.Tensor, encode=encode, calls: list[int] = calls) -> object:
            calls.append(len(video))
            return encode(video)

        monkeypatch.setattr(stage.vae, "encode", spy)
        stage.losses([stage.data[len(stage.data) - 1]], range(1))
        counts[condition] = len(calls)
    assert counts == {"pixels": 2, "latents": 1}
