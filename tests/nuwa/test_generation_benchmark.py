"""The comparison of a killed video with an undisturbed one sees every kind of difference."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.generate_once import SCENES, prompts_of
from benchmarks.generation import Generation
from benchmarks.generation_kills import Made, differences, make, write_story
from nuwa.generate.story import frame_prompts, load_story
from nuwa.generate.video_files import write_video
from nuwa.hierarchy import NuwaError


def made(folder: Path) -> Made:
    """A video of 5 frames beside two finished windows."""
    folder.mkdir()
    video = Made(folder / "video.mp4")
    write_video(video.video, [np.full((32, 32, 3), 40 * n, np.uint8) for n in range(5)], 8.0)
    video.windows.mkdir()
    for name in ("0-000000", "1-000000"):
        (video.windows / f"{name}.safetensors").write_bytes(name.encode())
    return video


def lose_a_window(video: Made) -> None:
    (video.windows / "1-000000.safetensors").unlink()


def change_a_window(video: Made) -> None:
    (video.windows / "0-000000.safetensors").write_bytes(b"0-000001")


def change_a_frame(video: Made) -> None:
    write_video(video.video, [np.full((32, 32, 3), 41 * n, np.uint8) for n in range(5)], 8.0)


def lose_a_frame(video: Made) -> None:
    write_video(video.video, [np.full((32, 32, 3), 40 * n, np.uint8) for n in range(4)], 8.0)


def leave_a_draft(video: Made) -> None:
    (video.windows / "_7_1-000003.safetensors").touch()


def test_equal_videos_have_no_difference(tmp_path: Path) -> None:
    found = differences(made(tmp_path / "calm"), made(tmp_path / "disturbed"))
    assert found.pop("windows compared") == 2
    assert found.pop("frames compared") == 5
    assert set(found.values()) == {0}


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (lose_a_window, "windows that differ or are missing"),
        (change_a_window, "windows that differ or are missing"),
        (change_a_frame, "frames of the mp4 that differ or are missing"),
        (lose_a_frame, "frames of the mp4 that differ or are missing"),
        (change_a_frame, "bytes of the mp4 differ"),
        (leave_a_draft, "unfinished files left behind"),
    ],
)
def test_every_difference_is_seen(tmp_path: Path, harm: Callable[[Made], None], name: str) -> None:
    calm, disturbed = made(tmp_path / "calm"), made(tmp_path / "disturbed")
    harm(disturbed)
    assert differences(calm, disturbed)[name] > 0


def test_a_command_is_killed_at_each_moment_and_then_runs_to_its_end(tmp_path: Path) -> None:
    """A stand-in that finishes a window on every start and ends once three are there."""
    video = Made(tmp_path / "video.mp4")
    program = f"""
import pathlib, time
folder = pathlib.Path({str(video.windows)!r})
folder.mkdir(exist_ok=True)
done = len(list(folder.iterdir()))
(folder / (str(done) + ".safetensors")).touch()
time.sleep(60 if done < 2 else 0)
"""
    said: list[str] = []
    make([sys.executable, "-c", program], video, [1, 2], random.Random(0), said.append)
    assert video.kills == [1, 2]
    assert said == ["killed after 1 windows", "killed after 2 windows"]
    assert len(list(video.windows.iterdir())) == 3


def test_a_command_that_fails_by_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        make([sys.executable, "-c", "raise SystemExit(3)"], Made(tmp_path / "v.mp4"), [], random.Random(0), print)


def test_the_story_on_disk_is_that_of_the_other_measurements(tmp_path: Path) -> None:
    story = load_story(write_story(tmp_path / "story.yaml", 100))
    assert frame_prompts(story, 8.0, 100) == prompts_of(100)
    assert set(prompts_of(100)) == set(SCENES)


def test_settings_that_measure_nothing_are_refused() -> None:
    with pytest.raises(NuwaError, match="repeats is 0"):
        Generation(repeats=0)
