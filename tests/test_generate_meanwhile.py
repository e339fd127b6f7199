"""What may happen while pipelines.generate is on its way: Ctrl-C, another process for the same output, new weights."""

import fcntl
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DDIMScheduler

from nuwa.generate import held_folder, job, pipeline_folder
from nuwa.generate.long_video import Progress
from nuwa.generate.pipeline_folder import save_pipeline
from tests.generated import command, run, save_model
from tests.nuwa import stack


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "made").mkdir()
    return [*command(model, tmp_path), "--output", str(tmp_path / "made/out")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def before_running(does: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next command do something between its checks and its work."""
    real = job.run

    def run_later(*args: object) -> None:
        monkeypatch.setattr(job, "run", real)
        does()
        real(*args)

    monkeypatch.setattr(job, "run", run_later)


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = job.generate_frames

    def generate_frames(plan, executor, *, keep, on_progress):
        def progress(made: Progress) -> None:
            if made.windows_done == 2:
                signal.raise_signal(signal.SIGINT)

        return real(plan, executor, keep=keep, on_progress=progress)

    with monkeypatch.context() as patch:
        patch.setattr(job, "generate_frames", generate_frames)
        assert run([*words, "--batch", "1"]) == 130
    captured = capsys.readouterr()
    assert captured.err == "stopped; the same command goes on\n"
    assert captured.out == ""
    assert len(list((tmp_path / "made/_out.windows").glob("*.safetensors"))) == 2
    assert run([*words, "--batch", "1"]) == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["out", "out.json"]


def test_what_another_process_has_finished_meanwhile_is_not_made_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, bytes]] = []

    def other() -> None:
        assert run(words) == 0
        made.append(files(tmp_path / "made"))
        monkeypatch.delattr(job, "generate_frames")

    before_running(other, monkeypatch)
    assert run(words) == 0
    assert [files(tmp_path / "made")] == made
    assert not (tmp_path / "made/_out.windows").exists()


def test_what_another_process_has_finished_with_other_settings_is_left_alone(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record too: a folder of images is not replaced at the end, so nothing else would tell."""
    made: list[dict[str, bytes]] = []

    def other() -> None:
        assert run(words) == 0
        made.append(files(tmp_path / "made"))

    before_running(other, monkeypatch)
    assert run([*words, "--seed", "1"]) == 2
    assert "is there already and differs in seed (0 there, 1 asked for)" in capsys.readouterr().err
    assert [files(tmp_path / "made")] == made
    assert json.loads((tmp_path / "made/out.json").read_text())["sampling"]["seed"] == 0
    assert not (tmp_path / "made/_out.windows").exists()


def test_the_hold_is_on_the_folder_that_is_there(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it before removed it between our opening and our locking: a lock on that one would hold nobody off."""
    real, locked = fcntl.flock, []
    folder = Path(words[-1]).with_name("_out.windows")

    def flock(handle: int, operation: int) -> None:
        real(handle, operation)
        locked.append(handle)
        if len(locked) == 1:
            folder.rmdir()

    monkeypatch.setattr(held_folder.fcntl, "flock", flock)
    assert run(words) == 0
    assert len(locked) == 2


def test_weights_replaced_between_checks_and_work_are_refused(
    words: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the record would name the old ones and the video show the new."""
    before_running(lambda: save_pipeline(stack.build(seed=1), model), monkeypatch)
    assert run(words) == 2
    assert "has changed since this video was begun" in capsys.readouterr().err
    assert files(tmp_path / "made") == {}
    assert run(words) == 0


def test_whether_a_video_is_done_is_known_without_its_weights(
    words: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 0
    capsys.readouterr()
    monkeypatch.delattr(pipeline_folder, "_read")
    assert run(words) == 0
    assert "is there already" in capsys.readouterr().out
    assert run([*words, "--seed", "1"]) == 2
    assert "differs in seed" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_be_sampled_is_refused_before_there_is_a_cluster(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    import ray

    shutil.rmtree(model)
    pipe = stack.build()
    pipe.register_modules(scheduler=DDIMScheduler(clip_sample=False, prediction_type="sample"))
    save_pipeline(pipe, model)
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(ray, "init")
        assert run([*words, "--workers", workers, "--sampler", "dpm++"]) == 2
    assert "prediction_type 'sample' cannot be sampled" in capsys.readouterr().err
    assert list((tmp_path / "made").iterdir()) == []
