"""docs/training.md is true: its settings exist, its queries choose, its recipe of three stages runs as printed."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nuwa.data.runs_query import runs_where
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.train.config import TrainConfig
from nuwa.train.run_folder import steps_in
from pipelines import cli
from pipelines.train import Train, main

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/training.md").read_text("utf-8").split("\n## Latents once")[0]
"""What the page says of training itself; the sections after it are of encoding, curves and workers."""
RECIPE = [
    shlex.split(line)[2:]
    for line in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)[0].splitlines()
    if line.startswith("python -m ")
]
SMALLER = {
    "demo.footage": ["--episodes", "5"],
    "pipelines.curate": [],
    "pipelines.train": ["--engine", "local", "--steps", "1", "--batch", "2", "--warmup", "1", "--threads", "1"],
    "pipelines.generate": ["--steps", "1", "--frames", "20"],
}
"""What the recipe is run with: the last one of an option that is given twice counts."""


def test_every_setting_exists() -> None:
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    options = set(re.findall(r"--([a-z][a-z-]+)", TEXT)) - {"help", "dry-run", "episodes", "input", "model", "story"}
    assert {option.replace("-", "_") for option in options} <= names
    assert {"where", "image_frac", "captions", "level_shares", "levels"} <= {o.replace("-", "_") for o in options}


@pytest.mark.parametrize("words", [words[1:] for words in RECIPE if words[0] == "pipelines.train"], ids=lambda w: w[4])
def test_every_training_of_the_recipe_is_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, Train, [*words, "--dry-run"]) == 0
    assert '"stage"' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.ray
def test_the_recipe_of_three_stages_runs_from_footage_to_a_video(tmp_path: Path) -> None:
    """Minutes: it films, curates with Ray and trains five times at the size of preset toy."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    for module, *words in RECIPE:
        command = [sys.executable, "-m", module, *words, *SMALLER[module]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    runs = tmp_path / "runs/recipe"
    for stage in ("image-vae", "image", "vae", "video", "quality"):
        assert steps_in(runs / stage / "checkpoints") == [1]
    assert (runs / "story.mp4").stat().st_size > 1000
    assert load_pipeline(runs / "quality/model").config.window_length == 16
    queries = re.findall(r'--where "(.*?)"', TEXT)
    assert len(queries) >= 5
    chosen = [len(runs_where(runs / "dataset", query)) for query in queries if "3376" not in query]
    assert min(chosen) > 0
