"""A story: times to frames at every level, and one clear line for everything that is no story."""

from pathlib import Path
from typing import Any

import pytest

from nuwa.generate.story import (
    GivenImage,
    Scene,
    Span,
    Story,
    frame_prompts,
    level_prompts,
    load_story,
    parse_story,
    spans,
)
from nuwa.hierarchy import NuwaError


def lasting(*seconds: float) -> Story:
    """A story of scenes a, b, c, a … that last so long."""
    return parse_story({"scenes": [{"prompt": "abc"[n % 3], "seconds": s} for n, s in enumerate(seconds)]})


def test_scenes_become_frames_without_drift(tmp_path: Path) -> None:
    path = tmp_path / "story.yaml"
    path.write_text("fps: 8\nscenes:\n- {prompt: a, seconds: 0.3125}\n- {prompt: b, seconds: 1}\n", "utf-8")
    story = load_story(path)
    assert story == Story((Scene("a", 0.0, 0.3125), Scene("b", 0.3125, 1.3125)), 8.0)
    assert frame_prompts(story, 8) == ["a"] * 2 + ["b"] * 8
    assert len(frame_prompts(lasting(*[1 / 3] * 300), 8)) == 800


def test_scenes_by_start_and_end_are_those_by_duration() -> None:
    timed = {"scenes": [{"prompt": "a", "start": 0, "end": 0.3125}, {"prompt": "b", "start": 0.3125, "end": 1.3125}]}
    assert parse_story(timed).scenes == lasting(0.3125, 1).scenes
    mixed = {"scenes": [{"prompt": "a", "seconds": 2}, {"prompt": "b", "start": 2, "end": 3}]}
    assert parse_story(mixed).scenes == lasting(2, 1).scenes


def test_frames_crop_or_extend_the_last_prompt() -> None:
    assert frame_prompts(lasting(1, 1), 2, 3) == ["a", "a", "b"]
    assert frame_prompts(lasting(1, 1), 2, 6) == ["a", "a", "b", "b", "b", "b"]


def test_a_level_may_have_prompts_of_its_own() -> None:
    entries = [
        {"prompt": "a", "seconds": 1, "prompts": {"global": "the plan of a", 2: "close to a"}},
        {"prompt": "b", "seconds": 1},
    ]
    story = parse_story({"scenes": entries})
    assert level_prompts(story, 2, 5, 3) == (
        ("the plan of a", "the plan of a", "b", "b", "b"),
        ("a", "a", "b", "b", "b"),
        ("close to a", "close to a", "b", "b", "b"),
    )
    with pytest.raises(NuwaError, match=r"scene 1 has a prompt for level 2, but 5 frames take 2 levels \(global, 1"):
        level_prompts(story, 2, 5, 2)


def test_spans_are_runs_of_one_prompt() -> None:
    assert spans(["a", "a", "b", "a"]) == [Span("a", 0, 1), Span("b", 2, 2), Span("a", 3, 3)]


def test_images_of_a_story_are_looked_for_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "story.yaml"
    path.write_text(
        "scenes: [{prompt: a, seconds: 9}]\ngiven: [{image: a.png, at: 1.5}, {image: /b.png, frame: 15}]\n", "utf-8"
    )
    assert load_story(path).given == (GivenImage(tmp_path / "a.png", at_s=1.5), GivenImage(Path("/b.png"), frame=15))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "NoneType"),
        ("fps: 8", "no prompts"),
        ("scenes: []", "no prompts"),
        ("scenes: a red star", "no prompts"),
        ("scenes: [{seconds: 2}]", "scene 1 has no prompt"),
        ("scenes: [{prompt: '  ', seconds: 2}]", "scene 1 has no prompt"),
        ("scenes: [{prompt: a, seconds: 1}, {prompt: b, seconds: -1}]", "scene 2 has seconds = -1"),
        ("scenes: [{prompt: a, seconds: 0}]", "seconds = 0"),
        ("scenes: [{prompt: a}]", "seconds = None"),
        ("scenes: [{prompt: a, seconds: yes}]", "seconds = True"),
        ("scenes: [{prompt: a, seconds: .inf}]", "seconds = inf"),
        ("scenes: [{prompt: a, seconds: .nan}]", "seconds = nan"),
        ("scenes: [{prompt: a, duration: 2}]", "unknown key `duration`"),
        ("speed: 8\nscenes: [{prompt: a, seconds: 1}]", "unknown key `speed`"),
        ("fps: 0\nscenes: [{prompt: a, seconds: 1}]", "fps = 0"),
        ("fps: .nan\nscenes: [{prompt: a, seconds: 1}]", "fps = nan"),
        ("scenes: [a]", "not a mapping"),
        ("scenes: [{prompt: a, seconds: 1}", "no valid YAML"),
        ("scenes: [{prompt: a, start: 0, seconds: 1}]", "`seconds` beside `start`"),
        ("scenes: [{prompt: a, start: 0}]", "end = None"),
        ("scenes: [{prompt: a, start: 2, end: 2}]", "not after its start"),
        ("scenes: [{prompt: a, start: 1, end: 2}]", "scene 1 starts at 1 s"),
        (
            "scenes: [{prompt: a, start: 0, end: 3}, {prompt: b, start: 2, end: 5}]",
            "scenes 1 and 2 overlap of 1 s: the one ends at 3 s, the other starts at 2 s",
        ),
        (
            "scenes: [{prompt: a, seconds: 3}, {prompt: b, start: 3.5, end: 5}, {prompt: c, seconds: 1}]",
            "scenes 1 and 2 leave a gap of 0.5 s",
        ),
        ("scenes: [{prompt: a, seconds: 1, prompts: close}]", "`prompts` is a mapping"),
        ("scenes: [{prompt: a, seconds: 1, prompts: {local: b}}]", "'local' is no level"),
        ("scenes: [{prompt: a, seconds: 1, prompts: {-1: b}}]", "-1 is no level"),
        ("scenes: [{prompt: a, seconds: 1, prompts: {0: b, global: c}}]", "level 0 and global are the same"),
        ("scenes: [{prompt: a, seconds: 1, prompts: {1: ''}}]", "no prompt for level 1"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: a.png", "`given:` is a list"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: [a.png]", "given image 1 is 'a.png'"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: [{image: a.png}]", "given image 1 is"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: [{image: a.png, at: 1, frame: 2}]", "given image 1 is"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: [{image: 3, at: 1}]", "given image 1 names no image"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: [{image: a.png, at: -1}]", "at = -1"),
        ("scenes: [{prompt: a, seconds: 1}]\ngiven: [{image: a.png, frame: 1.5}]", "frame = 1.5"),
    ],
)
def test_what_is_no_story_gets_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "story.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(NuwaError) as caught:
        load_story(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match=r"nothing\.yaml"):
        load_story(tmp_path / "nothing.yaml")
    (tmp_path / "film.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(NuwaError, match=r"film\.yaml"):
        load_story(tmp_path / "film.yaml")


@pytest.mark.parametrize(
    ("seconds", "frames", "words"),
    [
        ((0.01,), None, r"scene 1 \(0 to 0\.01 s\) lasts less than a frame"),
        ((1, 0.01), None, "scene 2"),
        ((1,), 0, "0 frames"),
        ((1,), 1, "1 frame is no video; ask for at least 2"),
        ((1,), -3, "-3 frames"),
        ((0.125,), None, "1 frame is no video"),
        ((1, 1, 1), 2, "the story has 3 prompts, more than the 2 frames asked for; give --frames 3"),
        ((1,), 10**12, "1000000000000 frames are more than the 10000000 of the longest video"),
        ((1,), 10**7 + 1, "10000001 frames are more than"),
        ((1, 1e300), None, r"the story lasts 1e\+300 s, which at 8 fps is more than the 10000000 frames"),
        ((1.25e6 + 1,), 10, "more than the 10000000 frames"),
        ((1e308, 1e308, 1e308), None, "the story lasts inf s"),
    ],
)
def test_videos_that_cannot_hold_the_story_are_refused(seconds: Any, frames: int | None, words: str) -> None:
    with pytest.raises(NuwaError, match=words):
        frame_prompts(lasting(*seconds), 8, frames)
