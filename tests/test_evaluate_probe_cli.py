"""pipelines.evaluate --probe toon reads videos of the toon world against their prompts and refuses other videos."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo import stories
from pipelines import cli, evaluate

FRAMES, SIZE, FPS = 60, 32, 8.0
FIGURES = {f"probe_{name}" for name in ("place", "colour", "shape", "action", "hero_kept", "places_returned_to")}


def film(folder: Path, number: int, prompts: list[str] | None = None) -> None:
    """A drawn story as PNG images with its record."""
    scenes = stories.draw_story(number, FRAMES, FPS)
    images = folder / f"{number}"
    images.mkdir(parents=True)
    for frame, image in enumerate(stories.draw_frames(scenes, SIZE, SIZE, FPS)):
        Image.fromarray(image).save(images / f"frame-{frame:06d}.png")
    wanted = [scene.caption for scene in scenes] if prompts is None else prompts
    (folder / f"{number}.json").write_text(json.dumps({"prompts": wanted, "fps": FPS}))


def run(folder: Path, *words: str) -> int:
    named = ["--real", str(folder / "made"), "--generated", str(folder / "made"), "--metrics", "sharpness"]
    named += ["--output", str(folder / "metrics.json"), "--bootstrap", "20", "--splits", "2", "--device", "cpu"]
    return cli.run(evaluate.main, evaluate.Evaluate, [*named, *words])


def test_drawn_stories_show_their_prompts_and_not_those_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 3, 5):
        film(tmp_path / "made", number)
    assert run(tmp_path, "--probe", "toon") == 0
    found: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    figures, printed = found["figures"], capsys.readouterr().out
    assert found["settings"]["probe"] == "toon"
    assert figures["probe_hero_seen"]["value"] == 1
    for name in FIGURES - set(found["left_out"]):
        figure = figures[name]
        assert (figure["value"], figure["floor"]["value"], figure["judge"]) == (1, 1, "toon"), name
        control, chance = figure["control_with_prompts_of_another_video"], figure["chance"]
        assert control["value"] == chance["value"] < 1, name  # readings are the truth
        assert f"{name} " in printed
    assert set(found["left_out"]) <= {"probe_places_returned_to"}
    assert "other prompts" in printed


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        ([], "probe toon: no generated video has prompts; put the .json of pipelines.generate beside each"),
        (["a cat on a mat"] * FRAMES, "probe toon: no prompt asks for anything that it reads (place: beach, forest"),
    ],
)
def test_videos_that_the_probe_has_nothing_to_ask_are_refused(
    prompts: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tmp_path / "made", 1, prompts)
    assert run(tmp_path, "--probe", "toon") == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "metrics.json").exists()


def test_without_a_probe_nothing_is_read(tmp_path: Path) -> None:
    film(tmp_path / "made", 1)
    assert run(tmp_path) == 0
    assert set(json.loads((tmp_path / "metrics.json").read_text())["figures"]) == {"sharpness"}
