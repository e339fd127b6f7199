"""Figures of scenes: shares of prompts that are shown, of heroes kept and places returned to, and their controls."""

import numpy as np
import pytest

from nuwa.evaluate.bootstrap import Bootstrap
from nuwa.evaluate.scene_figures import ReadVideo, agreement, judged, kept, numbers, returned
from nuwa.evaluate.scene_probe import Scene, SceneProbe, asked, asks_anything, read_scenes, stretches
from nuwa.hierarchy import NuwaError

COLOURS, PLACES = ("red", "blue"), ("sea", "hill", "moon")


def brightness(frames: np.ndarray) -> dict[str, str | float]:
    """Grey level 0 … 5 says colour and place: 3 · colour + place."""
    colour, place = divmod(int(frames[0, 0, 0, 0]), 3)
    return {"colour": COLOURS[colour], "place": PLACES[place], "level": float(frames.mean())}


PROBE = SceneProbe(
    name="grey",
    read=brightness,
    choices={"colour": COLOURS, "place": PLACES},
    kept={"same": ("colour",)},
    returning={"back": "place"},
    least_frames=2,
)


def video(shown: list[tuple[str, str]], wanted: list[tuple[str, str]], source: int) -> ReadVideo:
    """A scene of 4 frames for every pair of colour and place."""
    levels = [3 * COLOURS.index(colour) + PLACES.index(place) for colour, place in shown]
    frames = np.repeat(np.array(levels, np.uint8), 4)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    prompts = tuple(f"a {colour} thing on the {place}" for colour, place in wanted for _ in range(4))
    return ReadVideo(read_scenes(frames, prompts, PROBE), prompts, source)


RED = [("red", "sea"), ("red", "hill"), ("red", "sea"), ("red", "moon")]
BLUE = [("blue", "hill"), ("blue", "moon"), ("blue", "hill"), ("blue", "sea")]


def test_scenes_are_stretches_of_one_prompt() -> None:
    assert stretches(["a", "a", "b", "a"]) == [range(2), range(2, 3), range(3, 4)]
    frames = np.zeros((5, 2, 2, 3), np.uint8)
    found = read_scenes(frames, ["sea", "sea", "hill", "moon", "moon"], PROBE)  # one frame of hill is too short
    assert [(scene.first, scene.frames, scene.middle) for scene in found] == [(0, 2, 1), (3, 2, 4)]
    assert found[0].shown == {"colour": "red", "place": "sea", "level": 0.0}


def test_prompts_ask_for_whole_words_and_for_one_of_them() -> None:
    words = ("circle", "walks left", "red")
    assert asked("a Circle walks right", words) == "circle"
    assert asked("a star circles, redder", words) is None
    assert asked("a star walks left", words) == "walks left"
    assert asked("a red circle", words) is None
    assert asks_anything(["", "on the moon"], PROBE)
    assert not asks_anything(["a star in the city"], PROBE)


def test_faultless_videos_score_1_and_their_control_is_chance() -> None:
    videos = [video(RED, RED, 0), video(BLUE, BLUE, 1)]
    colour, place = (agreement(videos, name, words) for name, words in PROBE.choices.items())
    assert colour.own.tolist() == place.own.tolist() == [1, 1]
    assert colour.control.tolist() == colour.chance.tolist() == [0, 0]
    assert place.control.tolist() == place.chance.tolist() == [0, 0]
    same = kept(videos, ("colour",), PROBE)
    assert (same.own.tolist(), same.control.tolist(), same.chance.tolist()) == ([1, 1], [0, 0], [0, 0])


def test_shares_count_scenes() -> None:
    """Two of four scenes show their colour, three their place, one of three later ones the colour of the first."""
    shown = [("red", "sea"), ("blue", "hill"), ("blue", "moon"), ("red", "moon")]
    videos = [video(shown, RED, 0), video(BLUE, BLUE, 1)]
    assert agreement(videos, "colour", COLOURS).own[0] == 0.5
    assert agreement(videos, "place", PLACES).own[0] == 0.75
    assert agreement(videos, "colour", COLOURS).control[0] == 0.5  # against a story of blue
    assert kept(videos, ("colour",), PROBE).own[0] == pytest.approx(1 / 3)
    assert kept(videos, ("colour",), PROBE).control[0] == pytest.approx(2 / 3)
    assert returned(videos, "place", PLACES).own.tolist() == [0, 1]  # the sea came back as the moon
    assert numbers(videos, "level").tolist() == [pytest.approx((0 + 4 + 5 + 2) / 4), pytest.approx((4 + 5 + 4 + 3) / 4)]


def test_prompts_that_do_not_name_the_hero_leave_its_keeping_to_be_judged_without_chance() -> None:
    silent = [("a", place) for _, place in RED]
    videos = [video(RED, silent, 0), video(BLUE, silent, 1)]
    same = judged(kept(videos, ("colour",), PROBE), videos, Bootstrap(draws=20), "same")
    assert same.value.value == 1
    assert same.control is not None
    assert same.control.value == 0
    assert same.chance is None
    assert np.isnan(agreement(videos, "colour", COLOURS).own).all()


def test_what_cannot_be_seen_is_wrong_and_is_not_kept() -> None:
    unseen = tuple(Scene(4 * at, 4, "a red thing on the sea", {}) for at in range(3))
    videos = [ReadVideo(unseen, ("a red thing on the sea",) * 12, 0), video(RED, RED, 1)]
    assert agreement(videos, "colour", COLOURS).own.tolist() == [0, 1]
    assert kept(videos, ("colour",), PROBE).own.tolist() == [0, 1]
    assert np.isnan(numbers(videos, "level")[0])


def test_clips_of_one_source_are_no_control_for_each_other() -> None:
    videos = [video(RED, RED, 0), video(RED, RED, 0), video(BLUE, BLUE, 1)]
    assert agreement(videos, "colour", COLOURS).control.tolist() == [0, 0, 0]
    assert np.isnan(agreement(videos[:2], "colour", COLOURS).control).all()


def test_bad_readings_and_prompts_are_refused() -> None:
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    with pytest.raises(NuwaError, match="3 prompts for 4 frames"):
        read_scenes(frames, ["sea"] * 3, PROBE)
    odd = SceneProbe(name="odd", read=lambda frames: {"colour": "green"}, choices={"colour": COLOURS})
    with pytest.raises(NuwaError, match=r"probe odd read colour 'green', which its choices \(red, blue\)"):
        read_scenes(frames, ["sea"] * 4, odd)
