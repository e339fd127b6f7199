"""docs/training.md is true: commands parse, settings and defaults are those of the code, its recipe runs as printed."""

import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

from demo import footage
from nuwa.data.runs_query import runs_where
from nuwa.generate.config import GenerateConfig
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.train.captions import SHARES
from nuwa.train.config import DEFAULT_LENGTH, TrainConfig
from nuwa.train.encode_config import EncodeConfig
from nuwa.train.run_folder import PATIENCE_S, steps_in
from pipelines import cli, curate, encode, generate, train
from pipelines.encode import Encode
from pipelines.train import Train

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/training.md").read_text("utf-8")
BLOCKS = re.findall(r"```(?:sh)?\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
RECIPE = [shlex.split(line)[2:] for line in max(BLOCKS, key=len).splitlines() if line]
"""The commands of the longest block."""
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]
PARSERS: dict[str, tuple[Callable[[Any], None], type]] = {
    "demo.footage": (footage.main, footage.Film),
    "pipelines.curate": (curate.main, curate.Curate),
    "pipelines.encode": (encode.main, Encode),
    "pipelines.generate": (generate.main, GenerateConfig),
    "pipelines.train": (train.main, Train),
}
SMALLER = {
    "demo.footage": ["--episodes", "5"],
    "pipelines.curate": [],
    "pipelines.train": ["--engine", "local", "--steps", "1", "--batch", "2", "--warmup", "1", "--threads", "1"],
    "pipelines.generate": ["--steps", "1", "--frames", "20"],
}
"""What the recipe is run with: the last one of an option that is given twice counts."""


def words_of(command: str) -> list[str]:
    """Module and words of a command, with all that it leaves to choose: options in brackets, the stage."""
    given = command.removeprefix("python -m ").replace("[settings]", "")
    return ["mtd" if word == "STAGE" else word for word in shlex.split(re.sub(r"[\[\]]", "", given))]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *words = words_of(command)
    assert cli.run(*PARSERS[module], [*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("{")


def test_every_block_is_of_commands_or_of_queries() -> None:
    lines = [line for block in BLOCKS for line in block.splitlines() if line]
    assert {line for line in lines if line not in COMMANDS} == {line for line in lines if line.startswith("--where ")}
    assert len(COMMANDS) >= 12


def test_every_setting_exists() -> None:
    """In prose; of encoding only where it is told of."""
    of_training, of_encoding = (
        {field.name for field in dataclasses.fields(kind)} for kind in (TrainConfig, EncodeConfig)
    )
    for section in PROSE.replace("`tensorboard --logdir ", "").split("\n## "):
        known = of_training | {"help", "dry_run"} | (of_encoding if section.startswith("Latents once") else set())
        named = {option.replace("-", "_") for option in re.findall(r"--([a-z][a-z-]+)", section)}
        assert named <= known, section.splitlines()[0]


def settings_of(snippet: str) -> list[str]:
    """The options in `snippet` that have a value; `--levels local --init` has one."""
    options = [shlex.split(each) for each in re.findall(r"--[a-z-]+(?: (?!--)[^ ]+)*", snippet)]
    return [word for option in options if len(option) > 1 for word in option]


def test_every_value_in_prose_is_one() -> None:
    """Those of one option one after another, those of several options together: parsing takes a moment."""
    lines: list[list[str]] = []
    for words in map(settings_of, re.findall(r"`(--[^`]+)`", PROSE.replace("`--sample 32`", ""))):
        options = {word for word in words if word.startswith("--")}
        line = next((line for line in lines if not options & set(line)), None)
        if line is None:
            lines.append(line := [])
        line += words
    assert sum(map(len, lines)) > 40
    for line in lines:
        tyro.cli(Train, args=["mtd", "--dataset", "DATASET", "--output", "OUTPUT", *line])


def test_every_default_in_prose_is_that_of_the_code() -> None:
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    told = {name.replace("-", "_"): float(value) for name, value in re.findall(r"`--([a-z-]+)` (\d[\d.]*)", PROSE)}
    assert {"prompt_dropout", "global_mask_frac", "condition_dropout"} <= told.keys()
    assert told == {name: defaults[name] for name in told}
    page, tasks = " ".join(PROSE.split()), ("first_frame_frac", "prediction_frac", "infilling_frac")
    assert "`--first-frame-frac`, `--prediction-frac`, `--infilling-frac` (0.05 each)" in page
    assert [defaults[name] for name in tasks] == [0.05] * 3
    assert f"({100 * sum(defaults[name] for name in tasks):.0f} % of them by default)" in page
    assert f"up to `--max-failures` times ({defaults['max_failures']})" in page
    assert f"(`--sample {EncodeConfig.sample}`)" in page
    assert f"`--length` frames (L = {DEFAULT_LENGTH})" in page
    assert f"with probabilities {', '.join(map(str, SHARES))} " in page
    assert "by default the decoder too (`--vae-trains`)" in page
    assert defaults["vae_trains"] == "temporal+decoder"
    assert (PATIENCE_S, "the second waits half a minute" in page) == (30.0, True)
    assert (defaults["level_shares"], "without, all have equal shares" in page) == (None, True)
    assert (defaults["captions"], "Without, the caption that curation chose" in page) == ("stored", True)


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
