"""What tests of the stages of Lumiere share: a tiny dataset, tiny folders to start from, settings."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import save_pipeline
from nuwa.generate.stunet_pipeline import StunetPipeline, save_stunet
from nuwa.train.clip_components import starting_clip_pipeline
from nuwa.train.config import TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.progress import Progress
from nuwa.train.run_folder import steps_in
from tests.nuwa import clip_stack, stack
from tests.nuwa.small_training import small_training
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")
LENGTH = 6
TASKS = ("first_frame", "prediction", "infilling", "inpainting", "outpainting", "cinemagraph")
NO_TASKS = {f"{task}_frac": 0.0 for task in TASKS}


def make_world(folder: Path) -> Path:
    """`ds`, a dataset; `tiny`, a pipeline of NUWA-XL; `clips` and `pixels`, space-time U-Nets of latents and pixels."""
    write_dataset(folder / "ds", [24, 20])
    save_pipeline(stack.build(), folder / "tiny")
    save_stunet(clip_stack.build(latents=True, ssr=True), folder / "clips")
    save_stunet(clip_stack.build(), folder / "pixels")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    return resolve(small_training(world, output, **({"stage": "stunet", "length": LENGTH} | changes)))


@cache
def started(world: Path, init: str, stage: str) -> StunetPipeline:
    """What a stage starts from; read once, stages train copies."""
    return starting_clip_pipeline(made(world, world, stage=stage, init=world / init), read_runs(world / "ds")[0])


def quiet(_: Progress) -> None:
    """No output."""


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint of a run holds."""
    folder = run / "checkpoints" / f"step-{steps_in(run / 'checkpoints')[-1]:06d}"
    return {
        f"{part}/{name}": tensor
        for part in ("weights", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(weight, right[name]) for name, weight in left.items())
