"""The figures about stories: 1 for frames that show their prompts, chance against other stories; resumed, refused."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from demo import evaluate_stories, probe, stories, world
from demo.evaluate_stories import EvaluateStories, Told
from nuwa.evaluate.bootstrap import Bootstrap
from nuwa.generate.pipeline_folder import save_pipeline
from nuwa.hierarchy import NuwaError
from pipelines import cli
from tests.nuwa import stack

SHIPPED = Path(__file__).parents[2] / "demo" / "weights" / "pipeline"
CODE = cv2.COLOR_RGB2YCrCb
BARS = ["place, frames", "colour, frames", "action, scenes", "hero kept, scenes"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested with the bootstrap."""
    monkeypatch.setattr(evaluate_stories, "BOOTSTRAP", Bootstrap(draws=20))


@functools.cache
def told(seed: int, frames: int = 60) -> Told:
    """A story whose "generated" video is the drawn one; its autoencoder loses little and spreads latents by 1."""
    scenes = stories.draw_story(seed, frames, 8.0)
    readings = [probe.read_frame(frame) for frame in stories.draw_frames(scenes, 32, 32, 8.0)]
    by_kind = dict.fromkeys(evaluate_stories.KINDS, readings)
    footage, drawings = stories.Reconstruction({15: 1e-3, 1: 5e-4}, 0.5, 1.25), stories.Reconstruction({1: 1e-2}, 0, 1)
    return Told(scenes, by_kind, footage, drawings)


def test_stories_are_held_out_and_drawn_ones_reach_every_bar_and_their_control_chance() -> None:
    found = [told(seed) for seed in range(6)]
    for story in found:
        assert len(story.scenes) == 60
        assert all(world.is_held_out(scene.shape, scene.colour, scene.place) for scene in story.scenes)
    figures = {**evaluate_stories.frame_figures(found), **evaluate_stories.scene_figures(found)}
    for name, kinds in figures.items():
        made = kinds["generated"]
        assert made.value.value == 1, name
        assert made.control is not None
        assert made.chance is not None
        assert made.control.value == pytest.approx(made.chance.value), name
        assert made.chance.value < 0.5, name
    bars = evaluate_stories.bars_of(figures, found, 27.0)
    assert [bar.name for bar in bars[:4]] == BARS
    assert all(bar.holds for bar in bars)
    assert [bar.found.value for bar in bars[4:]] == pytest.approx([30.0, 33.0103, 20.0, 1.0])  # two strides, latents
    assert [bar.wanted for bar in bars[4:]] == ["≥ 27", "≥ 27", "", "≥ 0.9, ≤ 1.1"]
    assert [bar.holds for bar in evaluate_stories.bars_of(figures, found, 31.0)][4:] == [False, True, True, True]


def test_as_footage_a_story_keeps_its_light_and_loses_sharp_colours() -> None:
    """H.264 keeps one colour for four pixels."""
    drawn = stories.draw_frames(stories.draw_story(0, 20, 8.0), 32, 32, 8.0)
    footage = stories.filmed(drawn, 8.0)
    assert footage.shape == drawn.shape
    light, colour = [], []
    for one, other in zip(drawn, footage, strict=True):
        luma, *chroma = np.moveaxis(np.abs(cv2.cvtColor(one, CODE).astype(int) - cv2.cvtColor(other, CODE)), 2, 0)
        light.append(luma.mean())
        colour.append(np.mean(chroma))
    assert np.mean(light) < 3
    assert np.mean(colour) > 0.5


def test_a_bar_with_a_ceiling_is_missed_above_it() -> None:
    high = told(0)
    high = Told(high.scenes, high.readings, stories.Reconstruction({1: 1e-3}, 0.0, 1.3), high.of_drawings)
    figures = {**evaluate_stories.frame_figures([high, high]), **evaluate_stories.scene_figures([high, high])}
    bars = evaluate_stories.bars_of(figures, [high, high], 27.0)
    assert not bars[-1].holds
    assert "MISSED" in evaluate_stories.lines(figures, bars)[-1]


def test_frames_without_a_hero_count_as_wrong() -> None:
    story = told(0, 10)
    empty = [probe.Reading(place=scene.place) for scene in story.scenes]
    for measure, share in (("colour", 0), ("place", 1), ("shape", 0)):
        assert evaluate_stories.frame_scores([empty, empty], [story, story], measure).own.tolist() == [share] * 2


def test_a_sheet_keeps_every_frame_and_what_it_was_made_with(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (37, 8, 6, 3), np.uint8)
    stories.write_sheet(tmp_path / "a.png", video, {"frames": 37, "seed": 4})
    found = stories.read_sheet(tmp_path / "a.png")
    assert found is not None
    assert np.array_equal(found[0], video)
    assert found[1] == {"frames": 37, "seed": 4}
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(video[0]).save(tmp_path / "other.png")
    assert [stories.read_sheet(tmp_path / name) for name in ("a.png", "other.png", "none.png")] == [None] * 3


@pytest.fixture
def config(tmp_path: Path) -> EvaluateStories:
    """Two stories of seven frames by a stack of 16 px with random weights."""
    save_pipeline(stack.build(), tmp_path / "model")
    return EvaluateStories(
        model=tmp_path / "model", output=tmp_path / "out" / "stories.json", stories=2, frames=17, steps=1, batch=2
    )


def test_finished_stories_are_not_made_again(
    config: EvaluateStories, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []
    film = evaluate_stories.film_story

    def counted(pipe: object, prompts: list[str], config: EvaluateStories, seed: int) -> stories.Video:
        made.append(seed)
        return film(pipe, prompts, config, seed)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_stories, "film_story", counted)
    evaluate_stories.main(config)
    report, printed = json.loads(config.output.read_text()), capsys.readouterr().out
    assert made == [config.seed, config.seed + 1]
    assert [bar["name"] for bar in report["bars"]][:4] == BARS
    missed = sum(not bar.get("holds", True) for bar in report["bars"])
    assert printed.count("MISSED") == missed > 0  # and yet it has run
    assert set(report["figures"]["action, scenes"]) == set(evaluate_stories.KINDS)
    folder = config.output.with_suffix("")
    (folder / "story_001.png").write_bytes(b"cut short")
    evaluate_stories.main(config)
    assert made == [config.seed, config.seed + 1, config.seed + 1]
    assert json.loads(config.output.read_text()) == report
    assert sorted(path.name for path in folder.iterdir()) == ["story_000.png", "story_001.png"]
    assert config.output.with_suffix(".png").is_file()
    other = EvaluateStories(**{**vars(config), "guidance": (3.0,)})
    with pytest.raises(
        NuwaError, match=r"story_000.png was made with guidance \[2\.0\], not \[3\.0\]; give another --output"
    ):
        evaluate_stories.main(other)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--stories", "1"], "stories is 1; give 2 or more"),
        (["--frames", "1"], "frames is 1; give 2 or more"),
        (["--output", "stories"], "output stories is not the name of a .json file"),
        (["--model", "nothing"], "nothing"),
    ],
)
def test_bad_input_gives_one_line(
    change: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(tmp_path / "none"), "--output", str(tmp_path / "stories.json"), *change]
    assert cli.run(evaluate_stories.main, EvaluateStories, words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_shipped_weights_show_their_stories(tmp_path: Path) -> None:
    config = EvaluateStories(model=SHIPPED, output=tmp_path / "stories.json", stories=4, frames=106, steps=10, seed=99)
    evaluate_stories.main(config)
    figures = json.loads(config.output.read_text())["figures"]
    for name in ("colour, frames", "place, frames"):
        assert figures[name]["generated"]["value"]["value"] >= 0.8
        assert figures[name]["generated"]["control"]["value"] < 0.5
