"""A clip in one pass that was made before, or stopped: done, gone on with, or refused; its record is whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa.generate import clip_job
from nuwa.generate.one_pass import ClipSampler
from tests.clip_commands import StopError, command, pictures
from tests.generated import run
from tests.nuwa.clip_stack import SIZE


def test_the_same_again_is_done_and_other_settings_are_refused(
    clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command("--mode", "image", "--image", "image.png")
    assert run(words) == 0
    before = {path: path.stat().st_mtime_ns for path in clip_folder.rglob("*")}
    capsys.readouterr()
    assert run(words) == 0
    assert "is there already, made from the same weights" in capsys.readouterr().out
    for change, line in (
        ("--seed 1", "seed (0 there, 1 asked for)"),
        ("--mode text", "mode (image there, text asked for)"),
        ("--style style", "style"),
        ("--ssr pixels", "super_resolution"),
        ("--put-back", "put_back (False there, True asked for)"),
        ("--prompt other", "prompts"),
        ("--model latents", "weights_sha256"),
    ):
        changed = words if "--mode text" not in change else command()
        assert run([*changed, *change.split()]) == 2
        assert line in capsys.readouterr().err
    Image.new("RGB", (SIZE, SIZE)).save("image.png")
    assert run(words) == 2
    assert "differs in given frames" in capsys.readouterr().err
    assert {path: time for path, time in before.items() if path.name != "image.png"} == {
        path: path.stat().st_mtime_ns for path in clip_folder.rglob("*") if path.name != "image.png"
    }


def test_stopped_while_it_is_written_it_goes_on_from_the_sampled_clip(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(output="whole")) == 0
    real = ClipSampler.frames

    def stops(self, latents):
        for number, frame in enumerate(real(self, latents)):
            if number == 3:
                raise StopError
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(ClipSampler, "frames", stops)
        with pytest.raises(StopError):
            run(command())
    assert not (clip_folder / "out").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ClipSampler, "sample", None)  # it is not sampled again
        assert run(command()) == 0
    np.testing.assert_array_equal(pictures(clip_folder / "out"), pictures(clip_folder / "whole"))
    assert not [path for path in clip_folder.iterdir() if path.name.startswith("_")]


@pytest.mark.parametrize("larger", ["", "--ssr pixels --ssr-steps 1 --ssr-segment 5"])
def test_a_file_that_is_there_has_a_whole_record_whenever_it_was_stopped(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], larger: str
) -> None:
    words = command("--mode", "image", "--image", "image.png", "--frames", "7", *larger.split())

    def stops(_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(clip_job, "clean", stops)  # what comes right after the file appears
        with pytest.raises(StopError):
            run(words)
    assert len(pictures(clip_folder / "out")) == 7
    record = json.loads((clip_folder / "out.json").read_text())
    assert record["made_frames"] == 8
    assert record["known_pixels"]["share"] == pytest.approx(1 / 7)
    assert run(words) == 0
    assert "is there already" in capsys.readouterr().out
    assert json.loads((clip_folder / "out.json").read_text()) == record
