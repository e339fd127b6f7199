"""A story: durations to frames, and one clear line for everything that is no story."""

from pathlib import Path

import pytest

from nuwa.generate.story import Scene, Span, Story, frame_prompts, load_story, parse_story, spans
from nuwa.hierarchy import NuwaError


def test_scenes_become_frames_without_drift(tmp_path: Path) -> None:
    path = tmp_path / "story.yaml"
    path.write_text("fps: 8\nscenes:\n- {prompt: a, seconds: 0.3125}\n- {prompt: b, seconds: 1}\n", "utf-8")
    story = load_story(path)
    assert story == Story((Scene("a", 0.3125), Scene("b", 1.0)), 8.0)
    assert frame_prompts(story, 8) == ["a"] * 2 + ["b"] * 8
    third = Story(tuple(Scene(str(n), 1 / 3) for n in range(300)))
    assert len(frame_prompts(third, 8)) == 800


def test_frames_crop_or_extend_the_last_prompt() -> None:
    story = Story((Scene("a", 1), Scene("b", 1)))
    assert frame_prompts(story, 2, 3) == ["a", "a", "b"]
    assert frame_prompts(story, 2, 6) == ["a", "a", "b", "b", "b", "b"]


def test_spans_are_runs_of_one_prompt() -> None:
    assert spans(["a", "a", "b", "a"]) == [Span("a", 0, 1), Span("b", 2, 2), Span("a", 3, 3)]


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
        ("scenes: [{prompt: a}]", "seconds = None"),
        ("scenes: [{prompt: a, seconds: yes}]", "seconds = True"),
        ("scenes: [{prompt: a, seconds: .inf}]", "seconds = inf"),
        ("scenes: [{prompt: a, duration: 2}]", "unknown key `duration`"),
        ("speed: 8\nscenes: [{prompt: a, seconds: 1}]", "unknown key `speed`"),
        ("fps: 0\nscenes: [{prompt: a, seconds: 1}]", "fps = 0"),
        ("scenes: [a]", "not a mapping"),
        ("scenes: [{prompt: a, seconds: 1}", "no valid YAML"),
    ],
)
def test_what_is_no_story_gets_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "story.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(NuwaError, match=words) as caught:
        load_story(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match=r"nothing\.yaml"):
        load_story(tmp_path / "nothing.yaml")
    (tmp_path / "film.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(NuwaError, match=r"film\.yaml"):
        load_story(tmp_path / "film.yaml")


def test_scenes_shorter_than_a_frame_and_empty_videos_are_refused() -> None:
    story = parse_story({"scenes": [{"prompt": "a", "seconds": 0.01}]})
    with pytest.raises(NuwaError, match="scene 1 lasts"):
        frame_prompts(story, 8)
    with pytest.raises(NuwaError, match="0 frames"):
        frame_prompts(Story((Scene("a", 1),)), 8, 0)
