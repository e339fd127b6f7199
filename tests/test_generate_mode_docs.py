"""docs/lumiere.md is true: its commands parse and run, its Python runs, its modes are those of the code."""

import re
import shlex
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tyro
from PIL import Image

from nuwa.generate.config import GenerateConfig, Mode
from nuwa.generate.modes import MADE, NEEDS
from nuwa.generate.stunet_pipeline import save_stunet
from nuwa.generate.video_files import write_video
from tests.generated import STORY, run, save_model
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import SIZE

TEXT = (Path(__file__).resolve().parent.parent / "docs/lumiere.md").read_text("utf-8")
COMMANDS = [line.split(maxsplit=3)[3] for line in TEXT.splitlines() if line.startswith("python -m pipelines.generate")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pipe = clip_stack.build(ssr=True)
    save_stunet(pipe, "stunet")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    config = tyro.cli(GenerateConfig, args=shlex.split(command))
    assert config.prompt or config.story


def test_every_mode_has_a_row_and_a_command() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXT, re.MULTILINE))
    assert tuple(rows) == get_args(Mode)
    for mode, reads in rows.items():
        assert tuple(re.findall(r"`--(image|video|mask)`", reads)) == NEEDS[mode]
        assert mode == "text" or any(f"--mode {mode} " in command for command in COMMANDS)
    assert f"white ({MADE} and more of 255)" in TEXT


def test_the_python_runs(here: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(block, {})  # the page's own code
    assert (here / "clip.mp4").exists()


@pytest.mark.slow  # nine videos
def test_every_command_runs(here: Path) -> None:
    shutil.copytree(here / "stunet", here / "ssr")
    save_model(here / "demo/weights/pipeline")
    (here / "demo/story.yaml").write_text(STORY)
    clip_stack.make_unet(3, seed=5).save_pretrained("watercolour")
    Image.new("RGB", (SIZE, SIZE), (9, 99, 200)).save("first.png")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[3:9] = 255
    Image.fromarray(mask).save("mask.png")
    write_video("scene.mp4", [np.full((SIZE, SIZE, 3), 20 * n, np.uint8) for n in range(6)], 4)
    for command in COMMANDS:
        words = shlex.split(command.replace("--place 4 0 24 24", "--place 4 0 8 8"))
        assert run([*words, "--steps", "1", *(["--ssr-steps", "1"] if "--ssr" in words else [])]) == 0
        assert (here / tyro.cli(GenerateConfig, args=words).output).exists()
