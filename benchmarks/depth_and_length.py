"""Depth and length of windows (NUWA-XL Sec. 4, its ablations): fewer, longer windows against more levels of short ones.

python -m benchmarks.depth_and_length --dataset runs/weights/dataset --init runs/weights/vae/model [--quick]

First on exact-Gaussian videos in closed form, where nothing but the recursion can err; then with networks that were
trained alike, from the same image weights, for the same steps, with as many frames in a batch: toy FVD of generated
stories, seams, calls. Writes its section of benchmarks/RESULTS.md; killed and given again, it goes on.
`python -m demo.train_weights` makes dataset and init; the shipped demo/weights/pipeline does as well.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks import arms, seams
from benchmarks.arms import Ablation, Measure, Values
from benchmarks.depth_closed_form import (
    GAUSSIAN,
    GAUSSIAN_FRAMES,
    closed_form,
    closed_form_panel,
    gaussian_lines,
    name_of,
    windows_of,
)
from benchmarks.plots import Line, Panel, write_plot
from benchmarks.results import table, write_section
from nuwa.evaluate.bootstrap import Indices
from nuwa.hierarchy import NuwaError, depth_for
from pipelines import cli

if TYPE_CHECKING:
    from demo import world
    from nuwa.train.config import TrainConfig

Video = NDArray[np.uint8]
FEATURES, BLOCK = 16, 16


@dataclass(frozen=True, kw_only=True)
class MeasureDepth(Ablation):
    """Compare depths and window lengths, in closed form and with trained networks."""

    init: Path = Path("runs/weights/vae/model")
    """Pipeline folder with the image weights and the autoencoder of all arms."""
    work: Path = Path("runs/benchmarks/depth-and-length")
    """Folder for arms and videos; what is there is not made again."""
    lengths: tuple[int, ...] = (16, 7)
    """Window lengths of the trained arms; each gets the least depth that reaches the frames. The runs of the dataset
    have to be long enough for the first level: (L − 1)^depth + 1 frames."""
    frames: int = 217
    """Frames of the videos: 6³ + 1, a whole tree of three levels of 7 frames."""
    steps: int = 240
    """Optimiser steps of every arm."""
    batch_frames: int = 128
    """Frames per step: windows times their length."""
    stories: int = 8
    """Held-out stories that are generated."""
    sampler_steps: int = 10
    """Per window, without guidance, which would narrow the law that is compared."""
    temporal_lr_factor: float = 5.0
    """As in benchmarks.injection."""
    seed: int = 0
    """Of the training; stories have seeds of their own."""
    closed_form_only: bool = False
    """Train nothing; print only."""
    quick: bool = False
    """Two steps, two stories of few frames, print only."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_frames, self.sampler_steps) < 1 or self.stories < 2:
            raise NuwaError(
                f"steps {self.steps}, batch frames {self.batch_frames}, sampler steps {self.sampler_steps}, stories "
                f"{self.stories}: give 1 or more, and at least 2 stories"
            )
        if not self.lengths or min(self.lengths) < 3 or self.frames <= max(self.lengths):
            raise NuwaError(
                f"lengths {self.lengths}, frames {self.frames}: give lengths from 3 to less than the frames"
            )


def main(config: MeasureDepth) -> None:
    """Closed form, training, stories; write the section."""
    import torch

    torch.set_num_threads(1)
    if config.quick:
        config = dataclasses.replace(config, work=config.work / "quick", steps=2, stories=2, sampler_steps=2)
    gaussian = closed_form(GAUSSIAN[2:3] if config.quick else GAUSSIAN, GAUSSIAN_FRAMES[: 1 if config.quick else 3])
    lines = gaussian_lines(gaussian)
    if not config.closed_form_only:
        config.claim_work()
        found = {name_of(length): stories_of(config, length) for length in config.lengths}
        lines += ["", *trained_lines(config, found)]
        if not config.quick:
            lines += ["", plot(config, gaussian, found)]
            command = shlex.join(["python", "-m", "benchmarks.depth_and_length", *sys.argv[1:]])
            write_section("depth-and-length", "Depth and length of windows", command, lines, config.results)
    print("\n".join(lines))


@dataclass(frozen=True)
class Stories:
    """All stories of an arm: toy video features of their blocks (n p 16), and their seams."""

    features: NDArray[np.float64]
    measured: seams.Measured


def stories_of(config: MeasureDepth, length: int) -> Stories:
    """Train an arm and generate its stories, each kept when it is made."""
    folder = config.work / f"length-{length}"
    made = [
        arms.remembered(folder / f"story-{number}.json", partial(generated_story, config, length, number))
        for number in range(config.stories)
    ]
    return gathered(name_of(length), made)


def gathered(name: str, made: Sequence[Values]) -> Stories:
    """Stories from what is kept of each."""
    from nuwa.evaluate.seams import Seams

    levels = range(sum(key.startswith("keyframes") for key in made[0]))
    found = [[Seams(level, one[f"keyframes {level}"], one["interior"]) for level in levels] for one in made]
    sharpness = np.array([float(one["sharpness"].mean()) for one in made])
    return Stories(np.stack([one["features"] for one in made]), seams.Measured(name, found, sharpness))


def judged(video: Video, prompts: Sequence[str], length: int) -> Values:
    """What is kept of a video (n h w 3): features, seams, sharpness."""
    import torch

    from nuwa.evaluate.features import ToyVideoFeatures

    measured = seams.measure("", [(video, list(prompts))], length)
    pixels = torch.from_numpy(video).permute(3, 0, 1, 2).float() / 127.5 - 1.0  # 3 n h w
    blocks = torch.stack([pixels[:, at : at + BLOCK] for at in range(0, len(video) - BLOCK + 1, BLOCK)])
    keyframes = {f"keyframes {seam.level}": seam.keyframes for seam in measured.seams[0]}
    return keyframes | {
        "interior": measured.seams[0][0].interior,
        "sharpness": measured.sharpness,
        "features": ToyVideoFeatures(FEATURES)(blocks).double().numpy(),
    }


def story(config: MeasureDepth, number: int, fps: float) -> "list[world.Scene]":
    """The scene of every frame of one held-out story."""
    from demo.stories import draw_story

    return draw_story(6_000_000 + number, config.frames, fps)


def generated_story(config: MeasureDepth, length: int, number: int) -> Values:
    """One story by the network of an arm, which is trained first if it is not."""
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.pipeline_folder import load_pipeline
    from nuwa.generate.windows import Sampling, WindowSampler

    pipe = load_pipeline(arms.train_to(training_of(config, length), config.steps))
    fps = pipe.config.train_fps
    prompts = [scene.caption for scene in story(config, number, fps)]
    sampling = Sampling(steps=config.sampler_steps, guidance=1.0, seed=number, batch=8, fps=fps)
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    return judged(np.stack(list(generate_frames(frame_plan(prompts, length), executor))), prompts, length)


def training_of(config: MeasureDepth, length: int) -> "TrainConfig":
    """The training of an arm: all levels of its own depth, as many frames in a batch as in any other."""
    from nuwa.train.config import TrainConfig

    return TrainConfig(
        stage="mtd",
        dataset=config.dataset,
        init=config.init,
        output=config.work / f"length-{length}" / "training",
        length=length,
        depth=depth_for(config.frames, length),
        steps=config.steps,
        batch=max(1, config.batch_frames // length),
        warmup=min(20, config.steps),
        temporal_lr_factor=config.temporal_lr_factor,
        hop=5,
        log_every=10,
        threads=1,
        seed=config.seed,
        engine="local",
    )


def real_stories(config: MeasureDepth, first: int = 0) -> Stories:
    """The stories themselves, drawn, as many as are generated; seams at the places of the first arm's."""
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe, made = load_pipeline(config.init), []
    for number in range(first, first + config.stories):
        scenes = story(config, number, pipe.config.train_fps)
        made.append(judged(seams.draw(scenes, pipe), [scene.caption for scene in scenes], config.lengths[0]))
    return gathered("drawn", made)


def toy_fvd(found: dict[str, Stories], real: Stories) -> Callable[[str, Indices], float]:
    """Fréchet distance of all blocks of generated stories to those of the drawn ones."""
    from nuwa.evaluate.frechet import pooled_frechet

    return lambda arm, chosen: pooled_frechet(found[arm].features[chosen], real.features[chosen])


def worst_ratio(found: dict[str, Stories]) -> Callable[[str, Indices], float]:
    """Second difference at keyframes over the interior, at the level where it is largest."""
    return lambda arm, chosen: float(np.max([seam.ratio for seam in found[arm].measured.of(chosen)]))


def measures_of(found: dict[str, Stories], real: Stories) -> list[Measure]:
    """What is compared. The paper ranks L = 16 before L = 8 (B-FVD-16 542 and 674 at 256 frames)."""
    order = tuple(sorted(found, key=lambda arm: -int(arm.removeprefix("L = "))))
    return [
        Measure(name="toy FVD", of=toy_fvd(found, real), order=order),
        Measure(name="seam ratio, worst level", of=worst_ratio(found), digits=2),
        Measure(
            name="sharpness",
            lower_is_better=False,
            of=lambda arm, chosen: float(found[arm].measured.sharpness[chosen].mean()),
        ),
    ]


def trained_lines(config: MeasureDepth, found: dict[str, Stories]) -> list[str]:
    """Trained arms: tables and verdict."""
    from nuwa.evaluate.frechet import pooled_frechet

    real, others = real_stories(config), real_stories(config, config.stories)
    sources, measures = np.arange(config.stories), measures_of(found, real)
    rows = []
    for length in config.lengths:
        depth = depth_for(config.frames, length)
        row, total = windows_of(length, depth, config.frames)
        rows.append([name_of(length), str(depth), str(config.sampler_steps * row), str(config.sampler_steps * total)])
    return [
        f"Trained: image weights and autoencoder of `{config.init}`, {config.steps} steps of {config.batch_frames} "
        f"frames on `{config.dataset}`, all levels mixed, seed {config.seed}; {config.stories} held-out stories of "
        f"{config.frames} frames, {config.sampler_steps} sampler steps, no guidance. Toy FVD: random 3-D convolutions, "
        f"{FEATURES} wide, blocks of {BLOCK} frames, against the same stories drawn; other drawn stories reach "
        f"{pooled_frechet(others.features, real.features):.3f}. Seam ratio: second difference at keyframes over the "
        f"interior; drawn, at the places of L = {config.lengths[0]}: "
        f"{worst_ratio({'drawn': real})('drawn', sources):.2f}. Sharpness of the drawn ones "
        f"{real.measured.sharpness.mean():.3f}. Intervals: 95 %, stories drawn again with replacement; "
        "one training of each arm.",
        "",
        *arms.measure_table(measures, list(found), sources),
        "",
        *table(["arm", "depth", "calls in a row, unlimited workers", "calls in all, a window each"], rows),
        "",
        *arms.order_lines(measures, sources),
    ]


def plot(config: MeasureDepth, gaussian: dict[tuple[int, int, int], float], found: dict[str, Stories]) -> str:
    """Distance in closed form by length of windows, a line per depth; and what the trained arms reached."""
    panels = [closed_form_panel(gaussian, frames) for frames in sorted({frames for _, _, frames in gaussian})[1:]]
    sources, (measure, *_) = np.arange(config.stories), measures_of(found, real_stories(config))
    lengths = sorted(config.lengths)
    reached = [arms.of_arm(measure, name_of(length), sources) for length in lengths]
    values, low, high = [e.value for e in reached], [e.low for e in reached], [e.high for e in reached]
    trained = Panel(
        title=f"Trained alike, {config.frames} frames",
        x_label="frames of a window",
        y_label=measure.name,
        lines=[Line("least depth that reaches", lengths, values, low, high)],
    )
    alt = "Distance to the true law by length of windows and depth; toy FVD of trained arms"
    return write_plot("depth-and-length", alt, [*panels, trained], config.results)


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureDepth))
