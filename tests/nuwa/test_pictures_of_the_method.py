"""The pictures of docs/nuwa.md say what generation does: same windows, same rounds, same frames."""

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.frame_picture import draw_way_down, draw_window, way_down
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.pipeline_folder import save_pipeline
from nuwa.generate.tree_picture import draw_tree, rounds
from nuwa.generate.windows import Sampling, WindowSampler
from nuwa.hierarchy import plan
from pipelines import cli, draw
from tests.nuwa import stack

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("frames", "length", "batch"), [(50, 5, 4), (226, 16, 8), (3376, 16, 32), (17, 5, 1)])
def test_rounds_are_those_of_the_cost_formula(frames: int, length: int, batch: int) -> None:
    levels = plan(frames, length)
    found = rounds(levels, length, batch)
    assert set(found) == {window for level in levels for window in level}
    for level in levels:
        assert len({found[window] for window in level}) == math.ceil(len(level) / batch)
    assert max(found.values()) == sum(math.ceil(len(level) / batch) for level in levels)


def test_the_tree_has_every_window_and_every_frame() -> None:
    root = ElementTree.fromstring(draw_tree(50, 5, batch=4))
    boxes = [box for box in root.iter(f"{SVG}rect") if box.get("stroke")]
    assert len(boxes) == 1 + 4 + 13
    circles = list(root.iter(f"{SVG}circle"))
    assert len(circles) == 18 * 5
    rings = [circle for circle in circles if circle.get("fill") == "#ffffff"]
    assert len(rings) == 2 * 17
    assert "4 windows, stride 4" in "".join(root.itertext())
    assert "50 frames; what lies beyond is thrown away" in "".join(root.itertext())
    assert "thrown away" not in draw_tree(65, 5)


def test_the_frames_shown_are_those_of_the_video() -> None:
    sampler = WindowSampler(stack.build(), Sampling(steps=2, batch=1))
    video = frame_plan(["a red star"] * 30 + ["a blue circle"] * 20, 5)
    made = way_down(sampler, video, (2, 3))
    latents = generate_latents(video, LocalExecutor(sampler))
    for window in made:
        numbers = [frame for frame in window.task.window.frames(5) if frame < 50]
        assert torch.equal(window.result.latents[:, : len(numbers)], latents[:, numbers])
    assert [window.task.window.first for window in made] == [0, 32, 44]
    strips = np.asarray(draw_way_down(made, (2, 3), 20))
    assert strips.shape[1] == 2 * 12 + 5 * 24 - 4
    assert draw_window(sampler, made[-1], 20).width == strips.shape[1]


def test_the_command_draws_three_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pipeline(stack.build(), tmp_path / "model")
    (tmp_path / "story.yaml").write_text("fps: 4\nscenes: [{prompt: a red star, seconds: 4.25}]")
    words = ["--model", tmp_path / "model", "--story", tmp_path / "story.yaml", "--output", tmp_path / "docs"]
    line = [*map(str, words), "--steps", "2"]
    assert cli.run(draw.main, draw.Draw, line) == 0
    for name in ("nuwa-levels.png", "nuwa-window.png"):
        assert Image.open(tmp_path / "docs" / name).width > 100
    assert (tmp_path / "docs/nuwa-tree.svg").read_text().startswith("<svg")
    for change, words_of_it in (
        (["--places", "1", "1"], "2 places for 1 levels"),
        (["--places", "4"], "place 4 is no window"),
        (["--output", str(tmp_path / "story.yaml")], "cannot be written to"),
    ):
        assert cli.run(draw.main, draw.Draw, [*line, *change]) == 2
        assert words_of_it in capsys.readouterr().err
