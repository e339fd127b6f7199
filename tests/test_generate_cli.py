"""pipelines.generate from the command line: a whole video, the same again, and every bad input."""

import json
import shutil
from pathlib import Path

import av
import pytest
import torch

from nuwa.generate.mp4 import write_mp4
from nuwa.generate.pipeline_folder import save_pipeline, weights_fingerprint
from nuwa.hierarchy import NuwaError
from pipelines import cli, generate
from tests.nuwa import stack

STORY = "fps: 4\nscenes:\n- {prompt: a red star, seconds: 1}\n- {prompt: a blue circle, seconds: 1.5}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "model"
    save_pipeline(stack.build(), folder)
    return folder


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    """A command line that works; later words of the same flag replace earlier ones."""
    (tmp_path / "story.yaml").write_text(STORY)
    named = {"--model": model, "--story": tmp_path / "story.yaml", "--output": tmp_path / "out.mp4", "--steps": 2}
    return [str(word) for pair in named.items() for word in pair]


def run(words: list[str]) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return cli.run(generate.main, generate.Generate, words)
    finally:
        torch.set_num_threads(threads)


def test_a_story_becomes_an_mp4_and_the_record_to_repeat_it(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--upscale", "4"]) == 0
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
    before = (tmp_path / "out.mp4").stat().st_mtime_ns
    capsys.readouterr()
    assert run([*words, "--upscale", "4"]) == 0
    assert "already" in capsys.readouterr().out
    assert (tmp_path / "out.mp4").stat().st_mtime_ns == before
    assert run([*words, "--upscale", "4", "--seed", "1"]) == 2
    assert "differs in sampling" in capsys.readouterr().err
    assert (tmp_path / "out.mp4").stat().st_mtime_ns == before


def test_frames_and_depth_can_be_asked_for(words: list[str], tmp_path: Path) -> None:
    assert run([*words, "--frames", "6", "--depth", "3", "--guidance", "1"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["num_frames"], record["depth"], record["windows"]) == (6, 3, [1, 1, 2])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--model", "nothing"], "there is no pipeline folder"),
        (["--story", "nothing.yaml"], "cannot be read"),
        (["--output", "out.avi"], "does not end in .mp4"),
        (["--frames", "0"], "0 frames"),
        (["--frames", "40", "--depth", "2"], "depth of at least 3"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "1001"], "noise schedule has 1000"),
        (["--batch", "0"], "batch is 0"),
        (["--fps", "-1"], "fps is -1"),
        (["--upscale", "0"], "upscale 0"),
        (["--output", "story.yaml/out.mp4"], "story.yaml"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*words, *change]) == 2
    stderr = capsys.readouterr().err
    assert line in stderr
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["story.yaml"]


@pytest.mark.parametrize(
    ("story", "line"),
    [("fps: 8", "has no prompts"), ("scenes: [{prompt: a red star, seconds: -2}]", "seconds = -2")],
)
def test_a_story_without_prompts_or_with_a_negative_duration(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], story: str, line: str
) -> None:
    (tmp_path / "story.yaml").write_text(story)
    assert run(words) == 2
    stderr = capsys.readouterr().err
    assert line in stderr
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["story.yaml"]


def test_a_truncated_model_is_named(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model/vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert run([*words, "--model", str(tmp_path / "model")]) == 2
    stderr = capsys.readouterr().err
    assert str(weights) in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_a_video_that_is_there_already_is_not_touched(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"mine")
    assert run(words) == 2
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"
    assert not (tmp_path / "out.json").exists()


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match="no frame"):
        write_mp4(tmp_path / "out.mp4", iter(()), fps=8)
    assert list(tmp_path.iterdir()) == []
