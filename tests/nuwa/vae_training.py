"""What the tests of the autoencoder stages train: a tiny dataset, a tiny pipeline, LPIPS weights of the true layout."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.models.perceptual import Lpips
from nuwa.train.config import TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.image_vae_stage import ImageVaeStage
from nuwa.train.loop import train
from nuwa.train.run_folder import steps_in
from nuwa.train.vae_stage import VaeStage
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")


def write_world(folder: Path) -> Path:
    """`ds`, a dataset, `tiny`, a small random pipeline of windows of 4 frames, and `lpips.safetensors` in `folder`."""
    write_dataset(folder / "ds", [24, 20])
    pipe = build()
    pipe.register_to_config(window_length=4)
    save_pipeline(pipe, folder / "tiny")
    torch.manual_seed(0)
    state = Lpips().state_dict()
    heads = {f"lin{n}.model.1.weight": torch.rand_like(state.pop(f"heads.{n}")) for n in range(5)}
    save_file(state | heads, folder / "lpips.safetensors")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    """A training of four steps on that world."""
    return small_training(world, output, **({"stage": "vae", "warmup": 1} | changes))


def stage_of(config: TrainConfig) -> VaeStage | ImageVaeStage:
    """The stage of a config, ready for its first step."""
    config = resolve(config)
    kind = VaeStage if config.stage == "vae" else ImageVaeStage
    return kind(config, load_pipeline(config.init), read_runs(config.dataset), CPU)


def scalars_of(config: TrainConfig, until: int | None = None) -> list[dict[str, float]]:
    """Train and return the scalars of every step."""
    seen: list[dict[str, float]] = []
    train(config, lambda progress: seen.append(progress.scalars), until=until)
    return seen


def stored(run: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and optimiser state of the newest checkpoint."""
    folder = run / "checkpoints" / f"step-{steps_in(run / 'checkpoints')[-1]:06d}"
    return {
        f"{part}/{name}": tensor
        for part in ("weights", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }
