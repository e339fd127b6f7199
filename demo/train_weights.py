"""Train again what ships in demo/weights, and measure it.

    python -m demo.train_weights          (make weights; hours on two cores)

CoCa and aesthetic head learn from toon frames with their truth. Everything after them sees footage only: it is curated
with that CoCa, and the stages of NUWA-XL are trained on the curated dataset.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines import cli
from pipelines.commands import must_run

COCA_STEPS = 2200
STAGES = (
    ("image-vae", "image-vae", ("--steps", 3000)),
    ("image", "image", ("--steps", 1400)),
    ("vae", "vae", ("--steps", 100)),
    ("mtd", "mtd", ("--steps", 1000, "--hop", 5)),
    ("mtd-on", "mtd", ("--steps", 3000, "--hop", 5, "--temporal-lr-factor", 4)),
    ("mtd-mixed", "mtd", ("--steps", 2200, "--hop", 5, "--temporal-lr-factor", 4, "--image-frac", 0.125, "--seed", 1)),
)
"""Run folder, stage and its settings; the others are the defaults of preset toy."""


@dataclass(frozen=True, kw_only=True)
class TrainWeights:
    """Train the weights that ship."""

    work: Path = Path("runs/weights")
    """Folder for footage, dataset and run folders."""
    output: Path = Path("demo/weights")
    """Folder that receives coca/, aesthetic.safetensors and pipeline/."""
    episodes: int = 160
    """Toon episodes to film."""
    threads: int = 2
    """CPU threads of the training."""


def main(config: TrainWeights) -> None:
    """Run every step; steps whose result is there already do nothing: without aesthetic.safetensors CoCa is new too."""
    if not (config.output / "aesthetic.safetensors").exists():
        must_run("demo.train_coca", "--output", config.output, "--steps", COCA_STEPS)
    must_run("demo.footage", "--output", config.work, "--episodes", config.episodes)
    dataset = config.work / "dataset"
    must_run("pipelines.curate", "--input", config.work / "footage", "--output", dataset)
    init: tuple[str | Path, ...] = ("--text-encoder", config.output / "coca")
    for name, stage, settings in STAGES:
        folder = config.work / name
        words = ("--dataset", dataset, "--output", folder, "--threads", config.threads)
        must_run("pipelines.train", stage, *words, *settings, *init)
        init = ("--init", folder / "model")
    ship(config.work / STAGES[-1][0] / "model", config.output / "pipeline")
    must_run("demo.evaluate_coca", "--weights", config.output)
    must_run("demo.evaluate_stories", "--model", config.output / "pipeline", "--output", config.work / "stories.json")


def ship(model: Path, output: Path) -> None:
    """Copy a pipeline folder in half precision, half the size."""
    import torch

    from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline

    save_pipeline(load_pipeline(model), output, dtype=torch.float16)


if __name__ == "__main__":
    sys.exit(cli.run(main, TrainWeights))
