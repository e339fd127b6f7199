"""pipelines.generate from the command line: a whole video in every format, the same again, interrupted, with others."""

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from nuwa.generate import held_folder, job
from nuwa.generate.long_video import Progress
from nuwa.generate.pipeline_folder import weights_fingerprint
from nuwa.generate.windows import WindowSampler
from pipelines import generation_progress
from tests.generated import STORY, command, run, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("generate") / "model")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    return command(model, tmp_path)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of windows of every call of the sampler."""
    counts: list[int] = []
    real = WindowSampler.sample

    def counting(self, tasks, pixels):
        results = real(self, tasks, pixels)
        counts.append(len(tasks))
        return results

    monkeypatch.setattr(WindowSampler, "sample", counting)
    return counts


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_a_story_becomes_an_mp4_and_the_record_to_repeat_it(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--upscale", "4"]) == 0
    assert "windows 4/4, frames 10/10" in capsys.readouterr().out
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert (frames, stream.average_rate, stream.width, stream.height) == (10, 4, 64, 64)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["prompts"] == ["a red star"] * 4 + ["a blue circle"] * 6
    assert [(span["first"], span["last"], span["end_s"]) for span in record["spans"]] == [(0, 3, 1.0), (4, 9, 2.5)]
    assert record["weights_sha256"] == weights_fingerprint(model)
    assert (record["windows"], record["strides"], record["sampling"]["steps"]) == ([1, 3], [4, 1], 2)
    assert record["versions"].keys() >= {"python", "torch", "diffusers", "nuwa-xl"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.mp4", "story.yaml"]


def test_the_same_again_is_done_and_other_settings_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert run(words) == 0
    assert "already" in capsys.readouterr().out
    for change, line in (
        (["--seed", "1"], "seed (0 there, 1 asked for)"),
        (["--guidance", "3", "--batch", "3"], "guidance (2.0 there, 3.0 asked for), batch (8 there, 3 asked for)"),
        (["--frames", "9"], "num_frames (10 there, 9 asked for)"),
        (["--upscale", "2"], "upscale (1 there, 2 asked for)"),
        (["--output", str(tmp_path / "out.gif")], "format (mp4 there, gif asked for)"),
    ):
        assert run([*words, *change]) == 2
        assert line in capsys.readouterr().err
    (tmp_path / "story.yaml").write_text(STORY.replace("a red star", "a blue star"))
    assert run(words) == 2
    assert "differs in prompts; give another --output, or remove it and out.json" in capsys.readouterr().err
    (tmp_path / "story.yaml").write_text(STORY)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "story.yaml"} == {
        path: time_ns for path, time_ns in before.items() if path.name != "story.yaml"
    }


def test_the_command_in_the_record_makes_the_same_video(words: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert run([*words, "--output", out, "--seed", "3", "--steps", "3", "2", "--guidance-last", "1.5"]) == 0
    first = pictures(tmp_path / "out")
    line = shlex.split(json.loads((tmp_path / "out.json").read_text())["command"])
    assert line[:3] == ["python", "-m", "pipelines.generate"]
    again = [word if word != out else str(tmp_path / "again") for word in line[3:]]
    assert run(again) == 0
    for one, other in zip(first, pictures(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["out.gif", "frames"])
def test_gif_and_a_folder_of_images(words: list[str], tmp_path: Path, name: str) -> None:
    assert run([*words, "--output", str(tmp_path / name), "--upscale", "3"]) == 0
    if name == "frames":
        images = pictures(tmp_path / name)
        assert [path.name for path in sorted((tmp_path / name).iterdir())][-1] == "frame-000009.png"
    else:
        with av.open(str(tmp_path / name)) as container:
            images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [image.shape for image in images] == [(48, 48, 3)] * 10
    assert run([*words, "--output", str(tmp_path / name), "--upscale", "3"]) == 0


def test_options_reach_the_sampling(words: list[str], tmp_path: Path) -> None:
    changes = (
        "--frames 6 --depth 3 --steps 4 3 2 --guidance 5 3 1 --sampler dpm++ --condition latents --motion-score 0.2"
    )
    assert run([*words, *changes.split(), "--batch", "2", "--fps", "3"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["num_frames"], record["depth"], record["windows"], record["fps"]) == (6, 3, [1, 1, 2], 3)
    chosen = {"steps": [4, 3, 2], "guidance": [5.0, 3.0, 1.0], "motion_score": 0.2, "batch": 2}
    assert record["sampling"].items() >= (chosen | {"sampler": "dpm++", "condition": "latents"}).items()


def test_levels_with_prompts_of_their_own(words: list[str], tmp_path: Path) -> None:
    scenes = "scenes: [{prompt: a star, start: 0, end: 2.5, prompts: {global: a red star, 1: a star jumps}}]"
    (tmp_path / "story.yaml").write_text(f"fps: 4\n{scenes}")
    assert run(words) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["level_spans"] == [[["a red star", 0, 9]], [["a star jumps", 0, 9]]]
    assert set(record["prompts"]) == {"a star jumps"}


class _StopError(Exception):
    pass


def stop_after(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the job end as if killed once so many windows are done."""
    real = job.generate_frames

    def generate_frames(plan, executor, *, keep, on_progress):
        def progress(made: Progress) -> None:
            if made.windows_done == windows:
                raise _StopError

        return real(plan, executor, keep=keep, on_progress=progress)

    monkeypatch.setattr(job, "generate_frames", generate_frames)


def test_an_interrupted_video_goes_on_from_its_finished_windows(
    words: list[str], tmp_path: Path, sampled: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["--frames", "17", "--batch", "2", "--output", str(tmp_path / "whole")]
    assert run(words) == 0
    assert sampled == [1, 2, 2]
    words += ["--output", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(_StopError):
            run(words)
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["_out.windows", "out.json"]
    capsys.readouterr()
    assert run([*words, "--seed", "1"]) == 2
    assert "out.json is there already and differs in seed" in capsys.readouterr().err
    sampled.clear()
    assert run(words) == 0
    assert sampled == [2]
    assert not (tmp_path / "_out.windows").exists()
    for one, other in zip(pictures(tmp_path / "whole"), pictures(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_windows_of_another_video_are_not_mixed_in(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--keep-windows"]) == 0
    assert len(list((tmp_path / "_out.windows").glob("*.safetensors"))) == 4
    (tmp_path / "out.mp4").unlink()
    (tmp_path / "out.json").unlink()
    assert run([*words, "--seed", "1"]) == 2
    assert "sampling.seed" in capsys.readouterr().err
    assert run([*words, "--keep-windows"]) == 0
    assert run(words) == 0
    assert not (tmp_path / "_out.windows").exists()


def test_two_commands_for_one_output_do_not_meet(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = job.generate_frames

    def generate_frames(*args, **options):
        assert run(words) == 2
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "generate_frames", generate_frames)
        assert run(words) == 0
    assert "another process is making" in capsys.readouterr().err


@pytest.mark.slow  # starts Python three times: only a process of its own can be killed
def test_killed_with_signal_9_the_same_command_goes_on(words: list[str], tmp_path: Path) -> None:
    words += ["--frames", "65", "--batch", "1", "--steps", "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(output: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "pipelines.generate", *words, "--output", str(tmp_path / output)]
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    process = start("out")
    while len(list((tmp_path / "_out.windows").glob("*.safetensors"))) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    assert start("out").wait() == 0
    for one, other in zip(pictures(tmp_path / "whole"), pictures(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("_")]


@pytest.mark.ray
def test_workers_make_the_same_video_though_one_of_them_is_lost(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ["--frames", "33", "--batch", "1"]
    assert run([*words, "--output", str(tmp_path / "one")]) == 0
    real, lost = job.generate_frames, []

    def generate_frames(plan, executor, *, keep, on_progress):
        def progress(made: Progress) -> None:
            on_progress(made)
            if not lost and executor.pids:
                lost.append(executor.pids[0])
                os.kill(lost[0], signal.SIGKILL)

        return real(plan, executor, keep=keep, on_progress=progress)

    monkeypatch.setattr(job, "generate_frames", generate_frames)
    assert run([*words, "--output", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert lost
    for one, other in zip(pictures(tmp_path / "one"), pictures(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_in_a_log_is_a_line_now_and_then_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with generation_progress.shown() as tell:
        for frames in range(11):
            tell(Progress(4, 4, frames, 10, 75.4))
    assert capsys.readouterr().out == "windows 4/4, frames 10/10, 1 min 15 s left\n"
    clocks = {0.4: "0 s", 59.6: "1 min 0 s", 3599.4: "59 min 59 s", 7260: "2 h 1 min"}
    assert {seconds: generation_progress.clock(seconds) for seconds in clocks} == clocks


def test_progress_on_a_terminal_is_a_bar_with_the_same_figures() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with generation_progress.shown(terminal) as tell:
        tell(Progress(1, 4, 0, 10, None))
        tell(Progress(4, 4, 10, 10, 0.0))
    assert "windows 4/4, frames 10/10, 0 s left" in terminal.file.getvalue()


def test_without_locks_on_the_file_system_it_works_too(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(held_folder.fcntl, "flock", flock)
    assert run(words) == 0
