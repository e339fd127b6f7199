"""The whole path in one command: footage → Parquet → every training stage → one long video → report.

Every step is a command of its own, printed before it runs, and does nothing when its result is there already.
"""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from nuwa.hierarchy import NuwaError
from pipelines import cli

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


def run(module: str, *words: str | Path | float) -> int:
    """Print a command, run it, and return its exit status; 1 (an internal failure) ends the demo."""
    command = ["python", "-m", module, *map(str, words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    started = time.monotonic()
    status = subprocess.run([sys.executable, *command[1:]], check=False).returncode
    print(f"[{module}: {time.monotonic() - started:.0f} s]", flush=True)
    if status not in (0, 2):
        sys.exit(1)
    return status


def must_run(module: str, *words: str | Path | float) -> None:
    """Like `run`; a status 2, which has said what to change, ends the demo too."""
    if run(module, *words):
        raise NuwaError(f"the demo stops here: {module} cannot go on, its line above says why")


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
