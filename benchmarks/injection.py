"""Where condition and mask enter the denoiser: at one scale, on the way up, on both ways (NUWA-XL Sec. 3.2, its
ablation).

python -m benchmarks.injection --dataset runs/weights/dataset --init runs/weights/vae/model [--quick]

Three networks take over the same image weights and train for the same steps on the same windows, noise and masks, as
the local levels do. Measured on windows of held-out episodes whose true ends are given: the denoising loss at fixed
noise, and how far sampled frames between the ends are from the true ones. Writes its section of RESULTS.md; killed
and given again, it goes on. `python -m demo.train_weights` makes dataset and init; the shipped demo/weights/pipeline
does as well.
"""

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from benchmarks import arms
from benchmarks.arms import Ablation, Measure, Values
from benchmarks.plots import Panel, write_plot
from benchmarks.results import table, write_section
from nuwa.evaluate.bootstrap import Indices
from nuwa.hierarchy import NuwaError
from pipelines import cli

if TYPE_CHECKING:
    from benchmarks.condition import HeldOut
    from nuwa.generate.pipeline import NuwaXLPipeline
    from nuwa.models.mtd import Injection
    from nuwa.train.config import TrainConfig
    from nuwa.train.memory import LatentMemory
    from nuwa.train.mtd_stage import MtdStage
    from nuwa.train.stages import Stage

ARMS = ("single_scale", "up_only", "symmetric")
ORDER = ("symmetric", "up_only", "single_scale")
"""The paper's rank by FID (35.95, 36.04, 39.28) and by FVD (520.19, 526.36, 548.90)."""
PER_EPISODE = 2
"""Held-out windows of an episode."""


@dataclass(frozen=True, kw_only=True)
class MeasureInjection(Ablation):
    """Train three denoisers alike, their condition injected differently, and compare them on held-out windows."""

    init: Path = Path("runs/weights/vae/model")
    """Pipeline folder with the image weights and the autoencoder of all arms."""
    work: Path = Path("runs/benchmarks/injection")
    """Folder for arms and measurements; what is there is not made again."""
    steps: int = 165
    """Optimiser steps of every arm."""
    batch: int = 8
    """Windows per step."""
    temporal_lr_factor: float = 5.0
    """Learning rate of all that is not in the image network, over that of the rest: with few steps it has to learn fast
    to be told apart at all."""
    marks: int = 3
    """How often the loss of an arm is measured on its way."""
    episodes: int = 18
    """Held-out episodes, two windows of each."""
    sampler_steps: int = 10
    """Of the windows that are generated."""

    def __post_init__(self) -> None:
        least = min(self.steps, self.marks, self.batch, self.sampler_steps)
        if least < 1 or self.marks > self.steps or self.episodes < 2:
            raise NuwaError(
                f"steps {self.steps}, marks {self.marks}, batch {self.batch}, sampler steps {self.sampler_steps}, "
                f"episodes {self.episodes}: give 1 or more, no more marks than steps, and at least 2 episodes"
            )


def main(config: MeasureInjection) -> None:
    """Train and measure all arms, write the section."""
    import torch

    from nuwa.train.memory import LatentMemory

    torch.set_num_threads(1)
    if config.quick:
        config = dataclasses.replace(config, work=config.work / "quick", steps=2, marks=1, episodes=2, sampler_steps=2)
    config.claim_work()
    windows, memory = held_out(config), LatentMemory(2**31)
    sources = np.repeat(np.arange(config.episodes), PER_EPISODE)
    found = {arm: measured(config, arm, windows, memory) for arm in ARMS}
    lines = report(config, found, sources)
    if not config.quick:
        lines += ["", plot(config, found, sources)]
        command = shlex.join(["python", "-m", "benchmarks.injection", *sys.argv[1:]])
        write_section("injection", "Injection of condition and mask", command, lines, config.results)
    print("\n".join(lines))


def held_out(config: MeasureInjection) -> "list[HeldOut]":
    """Windows of stride 1 with given ends, PER_EPISODE of every held-out episode."""
    from benchmarks.condition import held_out_windows
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(config.init)
    return [
        window
        for number in range(config.episodes)
        for window in held_out_windows(pipe, 5_000_000 + number, PER_EPISODE)
    ]


def measured(config: MeasureInjection, arm: str, windows: "list[HeldOut]", memory: "LatentMemory") -> dict[int, Values]:
    """What an arm makes of the windows at every mark, by step; at step 0 all arms are the image network."""

    def remember_latents(stage: "Stage") -> None:
        cast("MtdStage", stage).memory = memory  # the arms' autoencoder and windows are the same: encode them once

    folder, found = config.work / arm, dict[int, Values]()
    for step in arms.marks(config.steps, config.marks):

        def make(step: int = step) -> Values:
            model = arms.train_to(training_of(config, arm), step, remember_latents)
            return judged(config, model, windows, generate=step == config.steps)

        found[step] = arms.remembered(folder / f"measured-{step}.json", make)
    return found


def start(config: MeasureInjection, arm: str) -> Path:
    """The pipeline folder that an arm starts from: the image weights, inflated with its way of injection."""
    import torch

    from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
    from nuwa.models.mtd import MaskTemporalUNet
    from nuwa.train.stages import rebuilt

    folder = config.work / arm / "start"
    if not (folder / "model_index.json").is_file():
        pipe = load_pipeline(config.init)
        torch.manual_seed(config.seed)
        unet = pipe.denoiser_global.image_unet()
        denoiser = MaskTemporalUNet.from_unet(unet, injection=cast("Injection", arm))
        save_pipeline(rebuilt(pipe, denoiser_global=denoiser, denoiser_local=denoiser), folder)
    return folder


def training_of(config: MeasureInjection, arm: str) -> "TrainConfig":
    """The training of an arm: nothing but output and init differs between them.

    Local levels only: where nothing is given, condition and mask are not read, and the arms do not differ.
    """
    from nuwa.train.config import TrainConfig

    return TrainConfig(
        stage="mtd",
        levels="local",
        dataset=config.dataset,
        init=start(config, arm),
        output=config.work / arm / "training",
        steps=config.steps,
        batch=config.batch,
        warmup=min(20, config.steps),
        temporal_lr_factor=config.temporal_lr_factor,
        hop=5,
        log_every=10,
        threads=1,
        seed=config.seed,
        engine="local",
    )


def judged(config: MeasureInjection, folder: Path, windows: "list[HeldOut]", generate: bool) -> Values:
    """Figures of every window, (n,): `loss`, `loss without` condition and mask, and of generated frames `psnr`, of all
    frames between the ends, and `psnr beside` them, of the first and the last of these.
    """
    from benchmarks.condition import denoising_losses
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(folder)
    values = {"loss": denoising_losses(pipe, windows, "pixels").mean(axis=1)}
    if generate:
        values["loss without"] = denoising_losses(pipe, windows, None).mean(axis=1)
        values |= between_ends(config, pipe, windows)
    return values


def between_ends(config: MeasureInjection, pipe: "NuwaXLPipeline", windows: "list[HeldOut]") -> Values:
    """PSNR in dB of generated frames against the true ones, (n,): between the ends, and right beside them."""
    from benchmarks.condition import generated, psnr

    made = generated(pipe, windows, "pixels", config.sampler_steps, guidance=1.0).pixels
    inner, beside = slice(1, -1), [1, -2]
    return {
        name: np.array([psnr(m[:, where], w.pixels[:, where]) for m, w in zip(made, windows, strict=True)])
        for name, where in (("psnr", inner), ("psnr beside", beside))
    }


def measures_of(found: dict[str, Values]) -> list[Measure]:
    """What is compared at the last step."""
    return [
        Measure(name="loss", of=arms.mean_of(found, "loss"), order=ORDER, digits=4),
        Measure(
            name="PSNR between the ends, dB",
            of=arms.mean_of(found, "psnr"),
            order=ORDER,
            lower_is_better=False,
            digits=2,
        ),
        Measure(
            name="of the two frames beside them",
            of=arms.mean_of(found, "psnr beside"),
            order=ORDER,
            lower_is_better=False,
            digits=2,
        ),
        Measure(
            name="loss without condition over loss",
            of=lambda arm, chosen: float(found[arm]["loss without"][chosen].mean() / found[arm]["loss"][chosen].mean()),
            lower_is_better=False,
        ),
    ]


def report(config: MeasureInjection, found: dict[str, dict[int, Values]], sources: Indices) -> list[str]:
    """Tables and verdicts."""
    measures = measures_of({arm: by_step[config.steps] for arm, by_step in found.items()})
    rows = [[arm, *(f"{values['loss'].mean():.4f}" for values in found[arm].values())] for arm in ARMS]
    return [
        f"Image weights and autoencoder of `{config.init}`; {config.steps} steps of {config.batch} windows of stride 1 "
        f"on `{config.dataset}`, seed {config.seed}; {len(sources)} held-out windows of {config.episodes} episodes, "
        f"true ends given. Loss (v-prediction) of the frames between, at fixed noise and five diffusion steps; frames "
        f"sampled with {config.sampler_steps} steps, no guidance, the same noise. Intervals: 95 %, episodes drawn "
        "again with replacement; arms are compared on the same windows. One training of each arm: how much "
        "another seed would change is not in them.",
        "",
        *arms.measure_table(measures, ARMS, sources),
        "",
        "Loss by step:",
        "",
        *table(["arm", *map(str, found[ARMS[0]])], rows),
        "",
        *arms.order_lines(measures, sources),
    ]


def plot(config: MeasureInjection, found: dict[str, dict[int, Values]], sources: Indices) -> str:
    """Loss over steps, and PSNR of the frames between the ends by arm."""
    by_step = {
        step: Measure(name="loss", of=arms.mean_of({arm: found[arm][step] for arm in ARMS}, "loss"))
        for step in found[ARMS[0]]
    }
    last = measures_of({arm: values[config.steps] for arm, values in found.items()})[1]
    panels = [
        Panel(
            title="Loss between true ends",
            x_label="optimiser steps",
            y_label="loss",
            lines=[arms.curve(arm, by_step, sources) for arm in ARMS],
        ),
        Panel(
            title=f"Generated frames between true ends, after {config.steps} steps",
            x_label=", ".join(f"{number} {arm}" for number, arm in enumerate(ARMS, 1)),
            y_label="PSNR, dB",
            lines=[arms.curve(arm, {number: last}, sources) for number, arm in enumerate(ARMS, 1)],
        ),
    ]
    return write_plot("injection", "Loss and PSNR of the three ways of injection", panels, config.results)


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureInjection))
