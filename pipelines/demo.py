"""The whole path in one command: footage → Parquet → every training stage → one long video → report.

Every step is a command of its own, printed before it runs, and does nothing when its result is there already.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from nuwa.generate.story import load_story
from nuwa.hierarchy import NuwaError
from pipelines import cli
from pipelines.commands import Word, must_run, run

HERE = Path(__file__).resolve().parent.parent / "demo"
NUM_FRAMES = 226
HOP = 5
"""Windows begin at every fifth frame: their latents are then computed once and used again."""
STAGES = (("image-vae", 150, 1e-5), ("image", 200, 5e-5), ("vae", 50, 1e-5), ("mtd", 150, 5e-5))
"""Stage, optimiser steps, peak learning rate: a few minutes on two cores, going on from the shipped weights."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Curate, train, generate and report, from toon footage or your own."""

    output: Path | None = None
    """Folder that receives everything: footage, dataset, one run folder per stage, story.mp4, report.html. Default
    runs/demo, and for footage of your own in a folder NAME runs/demo-NAME."""
    footage: Path | None = None
    """Folder of your own videos; default: toon episodes filmed for the purpose."""
    init: Path = HERE / "weights" / "pipeline"
    """Pipeline folder that training goes on from."""
    story: Path = HERE / "story.yaml"
    """Story of the video."""
    episodes: int = 56
    """Toon episodes to film when no footage is given."""
    training: float = 1.0
    """Training steps as a share of the demo's own."""


def output_folder(config: Demo) -> Path:
    """Where everything goes: what was asked for, else a folder of its own for every source of footage."""
    if config.output is not None:
        return config.output
    return Path("runs") / ("demo" if config.footage is None else f"demo-{config.footage.resolve().name}")


def train_stages(config: Demo, output: Path) -> tuple[Path, list[Path]]:
    """Train every stage from the one before → the last pipeline folder, and the run folders for the report.

    A stage that the footage cannot feed (no run long enough) is left out, and the shipped weights go on.
    """
    model, runs = config.init, []
    for stage, steps, lr in STAGES:
        folder = output / stage
        words = ("--dataset", output / "dataset", "--output", folder, "--init", model, "--lr", lr, "--hop", HOP)
        if run("pipelines.train", stage, *words, "--steps", max(1, round(steps * config.training))) == 0:
            model = folder / "model"
            runs.append(folder)
        elif (folder / "config.json").is_file():
            raise NuwaError(f"stopped: the training in {folder} cannot go on, its line above says why")
        else:
            print(f"stage {stage} is left out; the weights from before it go on", flush=True)
    return model, runs


def main(config: Demo) -> None:
    """Film (unless footage is given), curate, train, generate, report."""
    load_story(config.story)
    if not (config.init / "model_index.json").is_file():
        raise NuwaError(f"init {config.init} is no pipeline folder; give the folder `model` of a training")
    output = output_folder(config)
    if config.footage is None:
        must_run("demo.footage", "--output", output, "--episodes", config.episodes)
    dataset = output / "dataset"
    must_run("pipelines.curate", "--input", config.footage or output / "footage", "--output", dataset)
    model, runs = train_stages(config, output)
    video, report = output / "story.mp4", output / "report.html"
    story = ("--story", config.story, "--frames", NUM_FRAMES, "--upscale", 8)
    must_run("pipelines.generate", "--model", model, *story, "--output", video)
    curves: tuple[Word, ...] = ("--runs", *runs) if runs else ()
    must_run("pipelines.explore", "--dataset", dataset, *curves, "--video", video, "--output", report)
    print(f"\nOpen {report.resolve()}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Demo))
