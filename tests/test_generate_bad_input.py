"""Every way to get pipelines.generate wrong: status 2, one line that says what would work, nothing finished lost."""

import errno
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.video_files import write_video
from nuwa.generate.windows import WindowSampler
from tests.generated import STORY, command, run, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("generate") / "model")


@pytest.fixture
def words(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that works, in a folder with pictures that do and do not fit."""
    monkeypatch.chdir(tmp_path)
    grey = np.full((16, 16, 3), 99, np.uint8)
    for folder, size, names in (("board", 16, "ab"), ("wide", 24, "ab"), ("mixed", 16, ("a", "frame-7"))):
        (tmp_path / folder).mkdir()
        for name in (f"{stem}.png" for stem in names):
            Image.new("RGB", (size, 16)).save(tmp_path / folder / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    Image.new("RGB", (24, 16)).save(tmp_path / "wide.png")
    Image.fromarray(grey).save(tmp_path / "fits.png")
    write_video(tmp_path / "video.mp4", [grey] * 12, 4)
    return command(model, tmp_path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with."""
    assert run(words) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    return stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("--model nothing", "there is no pipeline folder nothing"),
        ("--model empty", "empty is no pipeline folder"),
        ("--story nothing.yaml", "nothing.yaml cannot be read"),
        ("--story empty", "empty cannot be read"),
        ("--output out.avi", "give a name that ends in .mp4 or .gif"),
        ("--output story.yaml/out.mp4", "story.yaml"),
        ("--output full", "full is there already"),
        ("--output video.mp4", "video.mp4 is there already and differs in everything"),
        ("--frames 0", "0 frames"),
        ("--frames 1000000000000", "more than the 10000000 of the longest video; ask for fewer"),
        ("--frames 1", "1 frame is no video; ask for at least 2"),
        ("--frames -5", "-5 frames"),
        ("--frames 40 --depth 2", "a depth of at least 3"),
        ("--depth 0", "depth of at least"),
        ("--depth 99", "99 puts keyframes 1e+59 frames apart; 10 frames need a depth of 2"),
        ("--depth 1000000000", "depth 1000000000 is more than any video needs"),
        ("--steps", "--steps has no number"),
        ("--steps 0", "steps is 0"),
        ("--steps 4 0", "it must be a number above 0"),
        ("--steps 1001", "noise schedule has 1000"),
        ("--steps 2 1001", "noise schedule has 1000"),
        ("--steps 2 2 2", "steps are given for 3 levels, (2, 2, 2), and the video has 2; give one number per level"),
        ("--guidance 8 2 2", "guidance is given for 3 levels, (8.0, 2.0, 2.0), and the video has 2; give one number"),
        ("--guidance 4 nan", "--guidance is nan"),
        ("--guidance", "--guidance has no number; give one, or one per level"),
        ("--steps 2 2 --frames 5", "steps are given for 2 levels, (2, 2), and the video has 1"),
        ("--batch 0", "batch is 0"),
        ("--workers 0", "workers is 0"),
        ("--workers -1", "workers is -1"),
        ("--fps -1", "fps is -1"),
        ("--fps 0", "fps is 0"),
        ("--fps nan", "--fps is nan; give a number"),
        ("--fps 0.1", "lasts less than a frame"),
        ("--guidance nan", "--guidance is nan"),
        ("--guidance inf", "--guidance is inf"),
        ("--guidance-last nan", "--guidance-last is nan"),
        ("--motion-score nan", "--motion-score is nan"),
        ("--upscale 0", "upscale 0"),
        ("--output out.gif --fps 60", "a GIF shows at most 50"),
        ("--first-frame nothing.png", "there is no image nothing.png"),
        ("--first-frame story.yaml", "story.yaml cannot be read"),
        ("--first-frame wide.png", "wide.png is 24×16 px, the model makes 16×16"),
        ("--storyboard nothing", "there is no storyboard folder nothing"),
        ("--storyboard empty", "empty has no image"),
        ("--storyboard mixed", "frame-7.png with a frame number and a.png without"),
        ("--storyboard wide", "a.png is 24×16 px, the model makes 16×16"),
        ("--storyboard board --first-frame fits.png", "are both given for frame 0"),
        ("--extend nothing.mp4", "there is no video nothing.mp4"),
        ("--extend story.yaml", "story.yaml cannot be read"),
        ("--extend video.mp4", "fills all 10 frames at 4 fps; ask for more --frames"),
        ("--extend video.mp4 --frames 20 --first-frame fits.png", "are both given for frame 0"),
    ],
)
def test_bad_options_get_one_line_and_leave_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, line: str
) -> None:
    before = files(tmp_path)
    assert line in refused([*words, *change.split()], capsys)
    assert files(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("_")]


@pytest.mark.parametrize(
    ("story", "line"),
    [
        ("fps: 8", "has no prompts"),
        ("scenes: [{prompt: a red star, seconds: 1.0e+300}]", "the story lasts 1e+300 s"),
        ("scenes: [{prompt: a red star, seconds: -2}]", "seconds = -2"),
        ("scenes: [{prompt: a, start: 0, end: 3}, {prompt: b, start: 2, end: 4}]", "scenes 1 and 2 overlap of 1 s"),
        ("scenes: [{prompt: a, start: 0, end: 3}, {prompt: b, start: 4, end: 5}]", "scenes 1 and 2 leave a gap"),
        ("fps: 4\nscenes: [{prompt: a, seconds: 0.25}]", "1 frame is no video"),
        ("fps: 4\nscenes: [{prompt: a, seconds: 2, prompts: {2: b}}]", "a prompt for level 2, but 8 frames"),
        ("fps: 4\nscenes: [{prompt: a, seconds: 2}]\ngiven: [{image: fits.png, at: 2}]", "frames 0 to 7"),
        ("fps: 4\nscenes: [{prompt: a, seconds: 2}]\ngiven: [{image: wide.png, at: 1}]", "the model makes 16×16"),
    ],
)
def test_bad_stories_get_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], story: str, line: str
) -> None:
    (tmp_path / "story.yaml").write_text(story)
    assert line in refused(words, capsys)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_more_prompts_than_frames(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "story.yaml").write_text("scenes:" + "".join(f"\n- {{prompt: a {n}, seconds: 1}}" for n in range(5)))
    assert "the story has 5 prompts, more than the 4 frames asked for; give --frames 5" in refused(
        [*words, "--frames", "4"], capsys
    )


def test_what_fits_is_taken(words: list[str], tmp_path: Path) -> None:
    """The same options with values that work: a first frame, a storyboard, a longer video, a picture to crop."""
    for number, change in enumerate(
        (
            "--first-frame fits.png",
            "--storyboard board",
            "--extend video.mp4 --frames 20",
            "--storyboard wide --fit crop",
        )
    ):
        assert run([*words, *change.split(), "--output", f"{number}.mp4"]) == 0
    given = [json.loads((tmp_path / f"{number}.json").read_text())["given"] for number in range(4)]
    assert [[(clip["first"], clip["last"]) for clip in clips] for clips in given] == [
        [(0, 0)],
        [(0, 0), (8, 8)],
        [(0, 11)],
        [(0, 0), (8, 8)],
    ]


def test_the_record_says_where_its_paths_start(
    model: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").symlink_to(model)
    assert run(["--model", "m", "--story", "story.yaml", "--output", "out.mp4", "--steps", "1"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    monkeypatch.chdir("/")
    capsys.readouterr()
    monkeypatch.chdir(record["folder"])
    assert run(shlex.split(record["command"])[3:]) == 0
    assert "out.mp4 is there already, made from the same" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_a_file_with_nearly_the_name_of_the_output_stays(words: list[str], tmp_path: Path, name: str) -> None:
    (tmp_path / "_out").mkdir()
    for mine in ("_out/mine.txt", "_out.mp4", "_out.json"):
        (tmp_path / mine).write_text("mine")
    before = {path.name for path in tmp_path.iterdir()}
    assert run([*words, "--output", name]) == 0
    for mine in ("_out/mine.txt", "_out.mp4", "_out.json"):
        assert (tmp_path / mine).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == before | {name, "out.json"}


def test_other_pictures_under_the_same_name_are_another_video(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["--first-frame", "fits.png"]
    assert run(words) == 0
    Image.new("RGB", (16, 16), (7, 7, 7)).save(tmp_path / "fits.png")
    capsys.readouterr()
    assert "differs in given frames" in refused(words, capsys)


def test_truncated_weights_are_named(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "model")
    for part in ("vae", "denoiser_global", "text_encoder"):
        weights = next((tmp_path / "model" / part).glob("*.safetensors"))
        whole = weights.read_bytes()
        for content in (whole[:-100], b""):
            weights.write_bytes(content)
            assert str(weights) in refused([*words, "--model", str(tmp_path / "model")], capsys)
        weights.write_bytes(whole)
    assert not (tmp_path / "out.json").exists()


def test_missing_and_damaged_files_of_a_model_are_named(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("vae/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "model_index.json")
    for name in names:
        folder = tmp_path / f"model of {name.replace('/', ' ')}"
        shutil.copytree(model, folder)
        (folder / name).unlink()
        assert name.split("/")[-1] in refused([*words, "--model", str(folder)], capsys)
        (folder / name).write_text('{"_class_name": "Nuwa')
        assert str(folder / name) in refused([*words, "--model", str(folder)], capsys)


def test_a_config_that_does_not_fit_the_weights_is_told(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "model")
    config = tmp_path / "model/denoiser_global/config.json"
    entries = json.loads(config.read_text())
    entries["unet_config"]["block_out_channels"] = [8, 8]
    config.write_text(json.dumps(entries))
    line = refused([*words, "--model", str(tmp_path / "model")], capsys)
    for part in (str(tmp_path / "model"), "MaskTemporalUNet", "down_blocks.1.resnets.0.conv1.weight"):
        assert part in line
    assert "[16, 8, 3, 3]" in line  # what the file holds
    assert "[8, 8, 3, 3]" in line  # what the config asks for


def test_an_autoencoder_of_another_latent_width_is_told(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The autoencoder of another model, whole in itself: 8 latent channels where the denoiser takes 4."""
    shutil.copytree(model, tmp_path / "model")
    config = tmp_path / "model/vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "latent_channels": 8}))
    weights = next((tmp_path / "model/vae").glob("*.safetensors"))
    widened = {}
    for key, tensor in load_file(weights).items():
        doubled = tensor
        if key.startswith(("encoder.conv_out.", "encoder.conv_out_time.", "quant_conv.", "post_quant_conv.")):
            doubled = tensor.repeat(2, *[1] * (tensor.ndim - 1))
            if key.endswith("weight") and not key.startswith("encoder.conv_out."):
                doubled = doubled.repeat(1, 2, *[1] * (tensor.ndim - 2))
        if key.startswith("decoder.conv_in.weight"):
            doubled = tensor.repeat(1, 2, 1, 1)
        widened[key] = doubled.contiguous()
    save_file(widened, weights, metadata={"format": "pt"})
    line = refused([*words, "--model", str(tmp_path / "model")], capsys)
    assert "8" in line
    assert "4" in line
    assert "channels" in line


def test_a_place_that_may_not_be_written(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/proc/out" in refused([*words, "--output", "/proc/out.mp4"], capsys).replace("_out", "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 kB: some windows of the tiny model fit."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(tmp_path / "disk")]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def count_windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    real = WindowSampler.sample

    def sample(self, tasks, pixels):
        counts.append(len(tasks))
        return real(self, tasks, pixels)

    monkeypatch.setattr(WindowSampler, "sample", sample)
    return counts


def test_a_full_disk_loses_nothing_that_was_finished(
    words: list[str], small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ["--frames", "65", "--batch", "1", "--output", str(small_disk / "out.mp4")]
    counts = count_windows(monkeypatch)
    line = refused(words, capsys)
    assert "the same command again" in line
    kept = len(list((small_disk / "_out.windows").glob("*.safetensors")))
    assert 2 <= kept < 21
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    made_before = sum(counts)
    counts.clear()
    assert run(words) == 0
    assert sum(counts) == 21 - kept
    assert made_before <= kept + 1
    assert sorted(path.name for path in small_disk.iterdir()) == ["out.json", "out.mp4"]


def test_a_disk_that_fills_up_where_none_can_be_mounted(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FinishedWindows._replace

    def full(self, path: Path, content: bytes) -> None:
        if len(list(path.parent.glob("*.safetensors"))) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(FinishedWindows, "_replace", full)
        assert "No space left" in refused([*words, "--batch", "1"], capsys)
    assert len(list((tmp_path / "_out.windows").glob("*.safetensors"))) == 2
    counts = count_windows(monkeypatch)
    assert run([*words, "--batch", "1"]) == 0
    assert sum(counts) == 2


def test_damaged_windows_are_made_again(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([*words, "--keep-windows"]) == 0
    (tmp_path / "out.mp4").unlink()
    damaged = sorted((tmp_path / "_out.windows").glob("*.safetensors"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    counts = count_windows(monkeypatch)
    assert run(words) == 0
    assert counts == [1]


def test_the_story_may_be_repaired_and_the_windows_stay(words: list[str], tmp_path: Path) -> None:
    """A line about the story costs nothing that was finished for the same output."""
    assert run([*words, "--keep-windows"]) == 0
    kept = files(tmp_path / "_out.windows")
    (tmp_path / "story.yaml").write_text("scenes: []")
    assert run(words) == 2
    assert files(tmp_path / "_out.windows") == kept
    (tmp_path / "story.yaml").write_text(STORY)
    assert run(words) == 0


@pytest.mark.ray
def test_a_cluster_that_is_not_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--ray-address", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err
