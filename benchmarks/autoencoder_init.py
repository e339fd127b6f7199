"""Temporal layers of the autoencoder: none, initialised at random, or as the identity (NUWA-XL Sec. 3.1, its ablation).

python -m benchmarks.autoencoder_init --dataset runs/weights/dataset --init runs/weights/image/model [--quick]

Three arms start from the same image autoencoder and train for the same steps on the same windows with the same seed:
the weights of stage `vae`, in the arm without temporal layers without these, which then stay the identity. Measured on
windows of held-out episodes. Writes its section of benchmarks/RESULTS.md; killed and given again, it goes on.
`python -m demo.train_weights` makes dataset and init; the shipped demo/weights/pipeline does as well.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import arms
from benchmarks.arms import Ablation, Measure, Values
from benchmarks.plots import Panel, write_plot
from benchmarks.results import table, write_section
from demo import world
from nuwa.evaluate.bootstrap import Indices
from nuwa.hierarchy import NuwaError
from pipelines import cli

if TYPE_CHECKING:
    import torch

    from nuwa.models.vae import TemporalVAE
    from nuwa.train.config import TrainConfig
    from nuwa.train.stages import Stage

ARMS = ("none", "random", "identity")
BY_FRAMES, BY_VIDEOS = ("identity", "none", "random"), ("identity", "random", "none")
"""The paper's ranks by FID (4.35, 4.71, 5.44) and by FVD (11.88, 12.75, 28.07)."""
FEATURES = 16
PER_EPISODE = 3
"""Held-out windows of an episode: two of stride 1, one of stride L − 1."""


@dataclass(frozen=True, kw_only=True)
class MeasureInit(Ablation):
    """Train three temporal autoencoders alike and compare their reconstructions of held-out windows."""

    init: Path = Path("runs/weights/image/model")
    """Pipeline folder whose image autoencoder all arms start from."""
    work: Path = Path("runs/benchmarks/autoencoder-init")
    """Folder for arms and measurements; what is there is not made again."""
    steps: int = 200
    """Optimiser steps of every arm."""
    batch: int = 2
    """Windows per step."""
    marks: int = 4
    """How often an arm is measured on its way."""
    episodes: int = 16
    """Held-out episodes, three windows of each."""

    def __post_init__(self) -> None:
        if min(self.steps, self.marks, self.batch) < 1 or self.marks > self.steps or self.episodes < 2:
            raise NuwaError(
                f"steps {self.steps}, marks {self.marks}, batch {self.batch}, episodes {self.episodes}: give 1 or "
                "more, no more marks than steps, and at least 2 episodes"
            )


def main(config: MeasureInit) -> None:
    """Train and measure all arms, write the section."""
    import torch

    torch.set_num_threads(1)
    if config.quick:
        config = dataclasses.replace(config, work=config.work / "quick", steps=2, marks=1, episodes=2)
    config.claim_work()
    windows = held_out(config)
    real = arms.remembered(config.work / "real.json", lambda: features_of(windows.pixels))
    found = {arm: measured(config, arm, windows) for arm in ARMS}
    lines = report(config, found, real, windows)
    if not config.quick:
        lines += ["", plot(config, found, real, windows.sources)]
        command = shlex.join(["python", "-m", "benchmarks.autoencoder_init", *sys.argv[1:]])
        write_section("autoencoder-init", "Temporal layers of the autoencoder, by init", command, lines, config.results)
    print("\n".join(lines))


@dataclass(frozen=True)
class Windows:
    """Held-out windows: pixels (3 l H W) each, which of them neighbour in time, and their episodes (n,)."""

    pixels: "list[torch.Tensor]"
    stride: list[int]
    sources: Indices


def held_out(config: MeasureInit) -> Windows:
    """PER_EPISODE windows of every held-out episode, as the autoencoder of the start is to see them."""
    from benchmarks.condition import pixels_of
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(config.init)
    length, fps = pipe.config.window_length, pipe.config.train_fps
    span = length - 1
    pixels, stride = [], []
    for number in range(config.episodes):
        episode = world.random_episode(4_000_000 + number, fps, (span * span + 1) / fps + 0.5, held_out=True)
        for first, apart in ((0, span), (span * (span // 5), 1), (span * (3 * span // 5), 1)):
            pixels.append(pixels_of(pipe, episode, range(first, first + span * apart + 1, apart)))
            stride.append(apart)
    return Windows(pixels, stride, np.repeat(np.arange(config.episodes), PER_EPISODE))


def measured(config: MeasureInit, arm: str, windows: Windows) -> dict[int, Values]:
    """What an arm makes of the windows, at the start and at every mark, by step."""
    folder = config.work / arm
    found = {0: arms.remembered(folder / "measured-0.json", lambda: reconstructed(start(config, arm), windows))}
    for step in arms.marks(config.steps, config.marks):

        def make(step: int = step) -> Values:
            training = training_of(config, arm)
            return reconstructed(arms.train_to(training, step, _without_time if arm == "none" else None), windows)

        found[step] = arms.remembered(folder / f"measured-{step}.json", make)
    return found


def start(config: MeasureInit, arm: str) -> Path:
    """The pipeline folder that an arm starts from."""
    import torch

    from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
    from nuwa.models.vae import TemporalVAE
    from nuwa.train.stages import rebuilt

    folder = config.work / arm / "start"
    if not (folder / "model_index.json").is_file():
        pipe = load_pipeline(config.init)
        torch.manual_seed(config.seed)
        vae = TemporalVAE.from_image_vae(pipe.vae.image_vae(), pipe.vae.config.temporal_kernel)
        if arm == "random":
            randomise(vae)
        save_pipeline(rebuilt(pipe, vae=vae), folder)
    return folder


def randomise(vae: "TemporalVAE") -> None:
    """Initialise all temporal layers as PyTorch initialises any layer.

    Paper: what random means is not stated; here: PyTorch's defaults, uniform in ± 1/√(fan in).
    """
    from torch import nn

    from nuwa.nn.temporal_attention import TemporalAttention
    from nuwa.nn.temporal_conv import TemporalConv

    for module in vae.modules():
        if isinstance(module, TemporalConv):
            nn.Conv1d.reset_parameters(module)
        elif isinstance(module, TemporalAttention):
            module.to_qkv.reset_parameters()
            module.to_out.reset_parameters()


def training_of(config: MeasureInit, arm: str) -> "TrainConfig":
    """The training of an arm: nothing but output and init differs between them."""
    from nuwa.train.config import TrainConfig

    return TrainConfig(
        stage="vae",
        dataset=config.dataset,
        init=start(config, arm),
        output=config.work / arm / "training",
        steps=config.steps,
        batch=config.batch,
        warmup=min(20, config.steps),
        hop=5,
        log_every=20,
        threads=1,
        seed=config.seed,
        engine="local",
    )


def _without_time(stage: "Stage") -> None:
    """Temporal layers stay the identity: the network has none."""
    vae: TemporalVAE = stage.module  # type: ignore[assignment]
    for weight in vae.temporal_parameters():
        weight.requires_grad_(False)


def reconstructed(folder: Path, windows: Windows) -> Values:
    """Figures and features of every window through the autoencoder of a pipeline folder.

    psnr: dB; flicker: mean absolute difference of neighbouring frames where they stand still, grey levels; change: mean
    absolute change of the error from frame to frame, grey levels; both of stride 1, else NaN; features: (n 16)
    """
    import torch

    from benchmarks.condition import psnr
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(folder)
    found: dict[str, list[float]] = {"psnr": [], "flicker": [], "change": []}
    made = []
    for pixels, stride in zip(windows.pixels, windows.stride, strict=True):
        with torch.no_grad():
            made.append(pipe.vae.decode(pipe.vae.encode(pixels[None]).mode())[0].clamp(-1.0, 1.0))
        error = 127.5 * (made[-1] - pixels)
        found["psnr"].append(psnr(made[-1], pixels))
        found["change"].append(float(error.diff(dim=1).abs().mean()) if stride == 1 else np.nan)
        found["flicker"].append(flicker_of(made[-1]) if stride == 1 else np.nan)
    return {name: np.array(values) for name, values in found.items()} | features_of(made)


def flicker_of(pixels: "torch.Tensor") -> float:
    """Mean flicker of the steps of one window (3 l H W), see nuwa.evaluate.flow."""
    from nuwa.evaluate.flow import steps
    from nuwa.generate.streaming_decode import as_images

    return float(np.nanmean([step.flicker for step in steps(np.stack(list(as_images(pixels))))]))


def features_of(pixels: "list[torch.Tensor]") -> Values:
    """Toy video features of windows, (n 16)."""
    import torch

    from nuwa.evaluate.features import ToyVideoFeatures

    return {"features": ToyVideoFeatures(FEATURES)(torch.stack(pixels)).double().numpy()}


def toy_fvd(found: dict[str, Values], real: Values) -> Callable[[str, Indices], float]:
    """Fréchet distance of an arm's reconstructions to the windows themselves."""
    from nuwa.evaluate.frechet import frechet_distance, gaussian

    return lambda arm, chosen: frechet_distance(
        gaussian(found[arm]["features"][chosen]), gaussian(real["features"][chosen])
    )


def measures_of(found: dict[str, Values], real: Values) -> list[Measure]:
    """What is compared: single frames as the paper's FID does, videos as its FVD does."""
    return [
        Measure(name="PSNR, dB", of=arms.mean_of(found, "psnr"), order=BY_FRAMES, lower_is_better=False, digits=2),
        Measure(name="toy FVD", of=toy_fvd(found, real), order=BY_VIDEOS, digits=4),
        Measure(name="change of the error", of=arms.mean_of(found, "change"), order=BY_VIDEOS, digits=2),
        Measure(name="flicker", of=arms.mean_of(found, "flicker"), digits=2),
    ]


def report(config: MeasureInit, found: dict[str, dict[int, Values]], real: Values, windows: Windows) -> list[str]:
    """Tables and verdicts."""
    last = {arm: by_step[max(by_step)] for arm, by_step in found.items()}
    measures = measures_of(last, real)
    truth = np.nanmean([flicker_of(p) for p, s in zip(windows.pixels, windows.stride, strict=True) if s == 1])
    by_step = {step: measures_of({arm: found[arm][step] for arm in ARMS}, real)[0] for step in sorted(found[ARMS[0]])}
    rows = [
        [arm, *(f"{measure.of(arm, np.arange(len(windows.sources))):.2f}" for measure in by_step.values())]
        for arm in ARMS
    ]
    return [
        f"Image autoencoder of `{config.init}`, {config.steps} steps of {config.batch} windows on `{config.dataset}`, "
        f"seed {config.seed}; {len(windows.sources)} held-out windows of {config.episodes} episodes, two thirds of "
        "stride 1. Intervals: 95 %, episodes drawn again with replacement; arms are compared on the same windows. "
        "One training of each arm: how much another seed would change is not in the intervals. "
        "Flicker (static regions) and change of the error, in grey levels, are of stride 1 only; the flicker of the "
        f"windows themselves is {truth:.2f}. Toy FVD: random 3-D convolutions, {FEATURES} wide.",
        "",
        *arms.measure_table(measures, ARMS, windows.sources),
        "",
        "PSNR in dB by step:",
        "",
        *table(["arm", *map(str, by_step)], rows),
        "",
        *arms.order_lines(measures, windows.sources),
    ]


def plot(config: MeasureInit, found: dict[str, dict[int, Values]], real: Values, sources: Indices) -> str:
    """PSNR and change of the error over steps."""
    panels = []
    for number, label in ((0, "PSNR, dB"), (2, "change of the error, grey levels")):
        by_step = {
            step: measures_of({arm: found[arm][step] for arm in ARMS}, real)[number] for step in sorted(found[ARMS[0]])
        }
        lines = [arms.curve(arm, by_step, sources) for arm in ARMS]
        panels.append(Panel(title="Held-out windows", x_label="optimiser steps", y_label=label, lines=lines))
    return write_plot("autoencoder-init", "PSNR and change of the error over steps", panels, config.results)


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureInit))
