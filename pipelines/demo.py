"""The whole path in one command: footage → Parquet → every training stage → one long video → report.

Every step is a command of its own, printed before it runs, and does nothing when its result is there already.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines import cli
from pipelines.commands import must_run, run

HERE = Path(__file__).resolve().parent.parent / "demo"
NUM_FRAMES = 226
STAGES = (("image-vae", 150, 1e-5), ("image", 200, 5e-5), ("vae", 50, 1e-5), ("mtd", 150, 5e-5))
"""Stage, optimiser steps, peak learning rate: a few minutes on two cores, going on from the shipped weights."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Curate, train, generate and report, from toon footage or your own."""

    output: Path = Path("runs/demo")
    """Folder that receives everything: footage, dataset, one run folder per stage, story.mp4, report.html."""
    footage: Path | None = None
    """Folder of your own videos; default: toon episodes filmed for the purpose."""
    init: Path = HERE / "weights" / "pipeline"
    """Pipeline folder that training goes on from."""
    story: Path = HERE / "story.yaml"
    """Story of the video."""
    episodes: int = 56
    """Toon episodes to film when no footage is given."""


def train_stages(config: Demo, dataset: Path) -> tuple[Path, list[Path]]:
    """Train every stage from the one before → the last pipeline folder, and the run folders for the report.

    A stage that the footage cannot feed (no run long enough) is left out, and the shipped weights go on.
    """
    model, runs = config.init, []
    for stage, steps, lr in STAGES:
        folder = config.output / stage
        words = ("--dataset", dataset, "--output", folder, "--init", model, "--steps", steps, "--lr", lr)
        if run("pipelines.train", stage, *words) == 0:
            model = folder / "model"
            runs.append(folder)
        else:
            print(f"stage {stage} is left out; the weights from before it go on", flush=True)
    return model, runs


def main(config: Demo) -> None:
    if config.footage is None:
        must_run("demo.footage", "--output", config.output, "--episodes", config.episodes)
    dataset = config.output / "dataset"
    must_run("pipelines.curate", "--input", config.footage or config.output / "footage", "--output", dataset)
    model, runs = train_stages(config, dataset)
    video, report = config.output / "story.mp4", config.output / "report.html"
    must_run(
        "pipelines.generate",
        *("--model", model, "--story", config.story, "--frames", NUM_FRAMES),
        *("--upscale", 8, "--output", video),
    )
    must_run("pipelines.explore", "--dataset", dataset, "--runs", *runs, "--video", video, "--output", report)
    print(f"\nOpen {report.resolve()}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Demo))
