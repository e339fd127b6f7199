"""docs/nuwa.md is true: its commands parse, its Python runs, its numbers are those of the code."""

import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
import yaml
from PIL import Image

from nuwa.evaluate.denoiser_calls import autoregressive_calls, hierarchical_calls, windows_per_level
from nuwa.generate.config import GenerateConfig
from nuwa.generate.story import parse_story
from tests.generated import run

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/nuwa.md").read_text("utf-8")
COMMANDS = [line.split(maxsplit=3)[3] for line in TEXT.splitlines() if line.startswith("python -m pipelines.generate")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    config = tyro.cli(GenerateConfig, args=shlex.split(command))
    assert config.model == Path("demo/weights/pipeline")


def test_commands_with_pictures_run_on_the_model_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the section on pictures, with the story beside them, at one step."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "story.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "board").mkdir()
    picture = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    for name in ("heart.png", "first.png", "board/a.png", "board/b.png", "board/c.png"):
        picture.save(tmp_path / name)
    torch.manual_seed(0)
    for command in [command for command in COMMANDS if "--first-frame" in command]:
        assert run([*shlex.split(command), "--steps", "1", "--frames", "20"]) == 0
    assert (tmp_path / "a.mp4").exists()


def test_the_story_is_one() -> None:
    story = parse_story(yaml.safe_load(blocks("yaml")[0]))
    assert [(scene.start_s, scene.end_s) for scene in story.scenes] == [(0, 4), (4, 7.5), (7.5, 11)]


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)  # the page's own code, in order
    assert len(names["video"]) == 31  # type: ignore[arg-type]
    assert (tmp_path / "jumps.mp4").exists()


def test_the_cost_table_is_the_formula() -> None:
    for frames in (16, 226, 256, 1024, 3376):
        levels = windows_per_level(frames, 16)
        one, eight = (autoregressive_calls(frames, 16, overlap, 1) for overlap in (1, 8))
        batches = hierarchical_calls(frames, 16, 1, batch=16)
        ratio = f"{one / len(levels):.2g}"
        cells = [frames, ", ".join(map(str, levels)), sum(levels), one, eight, batches, len(levels), ratio]
        assert f"| {' | '.join(map(str, cells))} |" in TEXT
    assert math.isclose(241 / 225, 1.07, abs_tol=0.005)


def test_what_the_model_that_ships_was_measured_at_is_in_the_results() -> None:
    """Mean denoising loss with the given ends and without: the last cell of its row."""
    section = (ROOT / "benchmarks/RESULTS.md").read_text("utf-8").split("<!-- condition -->")[1]
    means = dict(re.findall(r"^\| (pixels|nothing) \|.*\| (0\.\d{4}) \|$", section, re.MULTILINE))
    assert f"denoising loss is {means['pixels']} with them and {means['nothing']} without" in " ".join(TEXT.split())


def test_the_pictures_are_small_and_there() -> None:
    pictures = re.findall(r"\]\((nuwa-[a-z]+\.(?:svg|png))\)", TEXT)
    assert len(pictures) == 3
    for picture in pictures:
        assert (ROOT / "docs" / picture).stat().st_size < 300_000
