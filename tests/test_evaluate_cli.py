"""pipelines.evaluate from the command line: a whole report from real files, and every bad input in one line."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nuwa.evaluate.config import METRICS, EvaluateConfig
from nuwa.evaluate.i3d import I3D
from nuwa.evaluate.inception import fid_inception
from nuwa.evaluate.job import evaluate as evaluate_job
from nuwa.evaluate.job import prepare
from nuwa.hierarchy import NuwaError
from pipelines import cli, evaluate
from tests.nuwa.tiny_dataset import write_dataset

FRAMES, SIZE, FPS = 10, 32, 8


def film(path: Path, seed: int, noise: float = 0.0, frames: int = FRAMES, size: int = SIZE) -> None:
    """A bright square that wanders over a place of random colour; `noise` in grey levels, new in every frame."""
    rng = np.random.default_rng(seed)
    place, x, y = rng.integers(40, 160, 3), rng.integers(4, 12), rng.integers(4, 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "4", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
        for number in range(frames):
            image = np.broadcast_to(place, (size, size, 3)).astype(float)
            image = image + np.linspace(0, 40, size)[:, None, None]
            image[y : y + 8, x + number : x + number + 8] = (235, 25, 30)
            image = image + noise * rng.normal(size=image.shape)
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/ and generated/, 6 and 3 videos; the generated ones flicker and say how they were made."""
    root = tmp_path_factory.mktemp("evaluate")
    for number in range(6):
        film(root / "real" / f"{number}.mp4", number)
    for number in range(3):
        film(root / "generated" / f"{number}.mp4", 100 + number, noise=12.0)
        record = {"prompts": ["a red square in the forest"] * FRAMES, "window_length": 4, "depth": 2, "fps": FPS}
        if number == 1:
            record["prompts"] = ["a blue star in the desert"] * FRAMES
        (root / "generated" / f"{number}.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def words(footage: Path, tmp_path: Path) -> list[str]:
    """A command line that works; later words of the same flag replace earlier ones."""
    named = {"--real": footage / "real", "--generated": footage / "generated", "--output": tmp_path / "metrics.json"}
    named |= {"--block": 5, "--positions": 4, "--bootstrap": 20, "--splits": 3, "--device": "cpu"}  # type: ignore[dict-item]
    return [str(word) for pair in named.items() for word in pair]


def run(words: list[str]) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return cli.run(evaluate.main, evaluate.Evaluate, words)
    finally:
        torch.set_num_threads(threads)


def report(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "metrics.json").read_text()))


def test_a_report_says_everything(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--feature-width", "2"]) == 0
    found = report(tmp_path)
    figures = found["figures"]
    assert found["left_out"] == {}
    assert found["format"] == {
        "height": SIZE, "width": SIZE, "fps": 8.0, "frames": FRAMES, "block": 5, "positions": [0, 3, 6, 9]
    }  # fmt: skip
    assert set(figures) == {
        "toy_avg_fid", "toy_fid", "toy_avg_kid", "toy_b_fvd", "toy_fvd", "toy_b_kvd", "clipsim", "flicker",
        "static_frac", "warp", "matched_frac", "motion", "sharpness", "seams_level_0",
    }  # fmt: skip
    for name, figure in figures.items():
        low, high = figure["interval"]
        assert low <= figure["value"] <= high, name
        assert (figure["floor"] is None) == (name == "clipsim"), name  # real videos without prompts have none
        assert ("toy" in figure["label"]) == name.startswith("toy_"), name
        assert ("FID" in figure["label"] or "FVD" in figure["label"]) <= figure["label"].startswith("toy"), name
    assert figures["toy_avg_fid"]["counts"] == {
        "real": 6, "generated": 3, "positions": 4, "floor_larger_part": 3, "floor_smaller_part": 3, "splits": 3
    }  # fmt: skip
    assert figures["toy_avg_fid"]["judge"].endswith("first 2 principal directions of the real set")
    assert figures["toy_b_fvd"]["along"]["times_s"] == [0.3125, 0.9375]
    assert figures["flicker"]["value"] > 5 * figures["flicker"]["floor"]["value"]
    assert figures["sharpness"]["value"] > figures["sharpness"]["floor"]["interval"][1]
    assert figures["clipsim"]["control_with_prompts_of_another_video"]["value"] != figures["clipsim"]["value"]
    assert (found["real"]["videos_judged"], found["generated"]["videos_judged"]) == (6, 3)
    assert found["settings"]["seed"] == 0
    assert found["judges"]["image"].startswith("toy")
    printed = capsys.readouterr().out
    assert all(name in printed for name in figures)
    before = (tmp_path / "metrics.json").read_bytes()
    assert run([*words, "--feature-width", "2"]) == 0
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_what_the_videos_do_not_allow_is_left_out_with_the_remedy(
    words: list[str], footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(footage / "generated", tmp_path / "bare", ignore=shutil.ignore_patterns("*.json"))
    assert run([*words, "--generated", str(tmp_path / "bare"), "--bootstrap", "0"]) == 0
    found = report(tmp_path)
    assert set(found["left_out"]) == {"avg_fid", "fid", "b_fvd", "fvd", "clipsim", "seams"}
    assert "give at least 129 of each, or --feature-width 2 or less, or take avg_kid" in found["left_out"]["avg_fid"]
    assert found["figures"]["toy_avg_kid"]["interval"] is None
    assert "left out: avg_fid" in capsys.readouterr().out


def test_a_figure_that_finds_nothing_says_so(words: list[str], footage: Path, tmp_path: Path) -> None:
    """Prompts that change beside the only keyframes leave no seam to judge."""
    shutil.copytree(footage / "generated", tmp_path / "made")
    for record in (tmp_path / "made").glob("*.json"):
        prompts = ["a red square in the forest"] * 5 + ["a red square in the snow"] * 5
        record.write_text(json.dumps({"prompts": prompts, "window_length": 4, "depth": 2}))
    wanted = ["--generated", str(tmp_path / "made"), "--metrics", "seams", "sharpness"]
    assert run([*words, *wanted]) == 0
    found = report(tmp_path)
    assert set(found["figures"]) == {"sharpness"}
    assert "within 4 frames of a change of prompt" in found["left_out"]["seams"]


def test_runs_of_a_dataset_are_real_videos_with_prompts(words: list[str], footage: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", [24, 12], size=SIZE)
    wanted = ["--real", str(dataset), "--metrics", "clipsim", "sharpness"]
    assert run([*words, *wanted]) == 0
    found = report(tmp_path)
    assert set(found["figures"]) == {"clipsim", "sharpness"}
    assert found["figures"]["clipsim"]["floor"]["value"] is not None
    assert found["real"]["kind"] == "runs of a dataset"
    assert found["real"]["clips"] == ["run-0.mp4#0", "run-0.mp4#1", "run-1.mp4#0"]


def test_damaged_and_short_videos_are_named_and_do_not_count(
    words: list[str], footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(footage / "generated", tmp_path / "made")
    (tmp_path / "made" / "9.mp4").write_bytes(b"no video")
    whole = (tmp_path / "made" / "2.mp4").read_bytes()
    (tmp_path / "made" / "2.mp4").write_bytes(whole[: len(whole) // 2])
    film(tmp_path / "made" / "short.mp4", 1, frames=4)
    wanted = ["--generated", str(tmp_path / "made"), "--metrics", "sharpness", "--frames", str(FRAMES)]
    assert run([*words, *wanted]) == 0
    found = report(tmp_path)["generated"]
    assert {entry["video"] for entry in found["skipped"]} == {"2.mp4", "9.mp4"}
    assert found["too_short"] == ["short.mp4"]
    assert found["clips"] == ["0.mp4#0", "1.mp4#0"]
    printed = capsys.readouterr().out
    assert "skipped: 9.mp4" in printed
    assert "too short for 10 frames: short.mp4" in printed


def test_a_figure_that_was_asked_for_is_not_dropped_because_of_a_damaged_video(
    words: list[str], footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two videos; the header of one is whole, its pictures are not, which shows when it is decoded."""
    for number in range(2):
        film(tmp_path / "made" / f"{number}.mp4", number)
    path = tmp_path / "made" / "1.mp4"
    whole = path.read_bytes()
    first, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    path.write_bytes(whole[:first] + bytes(end - first) + whole[end:])
    assert run([*words, "--generated", str(tmp_path / "made"), "--metrics", "b_kvd", "--frames", str(FRAMES)]) == 2
    error = capsys.readouterr().err
    assert "give at least 2 of each (1 could not be decoded: " in error
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--real", "nothing"], "--real nothing is not a folder"),
        (["--real", "EMPTY"], "holds no video"),
        (["--generated", "EMPTY"], "holds no video"),
        (["--generated", "BROKEN"], "none of 1 videos can be read"),
        (["--real", "SMALL"], "would be enlarged to 32x32; give --size 16 16"),
        (["--real", "SHORT"], "no video has 10 frames at 8 fps, the longest has 4; give --frames 4 or less"),
        (["--metrics", "avg_fid"], "give at least 129 of each, or --feature-width 2 or less"),
        (["--metrics", "b_fvd", "--block", "11"], "hold no block of 11; give --block less"),
        (["--metrics", "b_fvd", "--block", "2"], "read 4 frames or more; give --block 4"),
        (["--metrics", "warp", "--size", "8", "8"], "too small for optical flow"),
        (["--metrics", "seams", "--fps", "4"], "the windows are not known or differ"),
        (["--frames", "11"], "up to 10 frames at 8 fps, not 11"),
        (["--frames", "1"], "--frames is 1; give 2 or more"),
        (["--fps", "16"], "has 8 frames a second, not 16"),
        (["--fps", "nan"], "--fps is nan"),
        (["--inception", "nothing.pth"], "--inception nothing.pth is not a file"),
        (["--i3d", "nothing.pt"], "--i3d nothing.pt is not a file"),
        (["--clip", "nothing"], "no open_clip_config.json in nothing"),
        (["--output", "metrics.txt"], "is not the name of a .json file"),
        (["--output", "/dev/null/metrics.json"], "cannot be written"),
        (["--bootstrap", "-1"], "--bootstrap is -1; give 0 or more"),
    ],
)
def test_bad_input_gives_one_line(
    change: list[str], line: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("EMPTY", "BROKEN", "SMALL", "SHORT") if name in change}
    for name, folder in folders.items():
        folder.mkdir()
        if name == "BROKEN":
            (folder / "a.mp4").write_bytes(b"no video")
        elif name != "EMPTY":
            film(folder / "a.mp4", 0, frames=4 if name == "SHORT" else FRAMES, size=16 if name == "SMALL" else SIZE)
    change = [str(folders.get(word, word)) for word in change]
    quick = [] if "--metrics" in change or "--clip" in change else ["--metrics", "sharpness"]
    assert run([*words, *quick, *change]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "metrics.json").exists()


def test_every_command_of_the_manual_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text("utf-8")
    commands = re.findall(r"^python -m pipelines\.evaluate (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert run([*shlex.split(command), "--dry-run"]) == 0
    assert all(f"| `{name}` |" in text for name in METRICS)


def test_dry_run_prints_the_whole_configuration(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["block"] == 5


def test_probes_come_in_as_callables(words: list[str], footage: Path, tmp_path: Path) -> None:
    """One that sees red, one that asks its prompt: the control takes the prompts of another video."""

    def red(frames: NDArray[np.uint8], prompts: object) -> NDArray[np.float64]:
        return (frames[..., 0].astype(int) - frames[..., 1] > 120).any(axis=(1, 2)).astype(float)

    def asked_for_red(frames: NDArray[np.uint8], prompts: Any) -> NDArray[np.float64]:
        return np.array([1.0 if "red" in prompt else 0.0 for prompt in prompts])

    config = EvaluateConfig(
        real=footage / "real", generated=footage / "generated", output=tmp_path / "x.json", metrics=("sharpness",)
    )
    figures = evaluate_job(prepare(config), {"red": red, "asked": asked_for_red})["figures"]
    assert figures["probe_red"]["value"] == 1.0
    assert figures["probe_red"]["floor"] is None  # real files without prompts ask for nothing
    assert figures["probe_asked"]["value"] == pytest.approx(2 / 3, rel=1e-6)
    assert figures["probe_asked"]["control_with_prompts_of_another_video"]["value"] == pytest.approx(2 / 3, rel=1e-6)
    with pytest.raises(NuwaError, match=r"probe odd gave scores of shape \(3,\)"):
        evaluate_job(prepare(config), {"odd": lambda frames, prompts: np.zeros(3)})


@pytest.mark.slow  # nine images and nine videos pass through networks of 22 and 13 million parameters
def test_the_fields_networks_drop_the_word_toy(words: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(I3D().state_dict(), tmp_path / "rgb_imagenet.pt")
    state = fid_inception().state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, tmp_path / "pt_inception.pth")
    given = ["--i3d", str(tmp_path / "rgb_imagenet.pt"), "--inception", str(tmp_path / "pt_inception.pth")]
    wanted = ["--metrics", "avg_kid", "b_kvd", "b_fvd", "--block", "10", "--positions", "1", "--feature-width", "2"]
    assert run([*words, *given, *wanted]) == 0
    figures = report(tmp_path)["figures"]
    assert set(figures) == {"avg_kid", "b_kvd", "b_fvd"}
    assert figures["b_fvd"]["label"] == "B-FVD-10"
    assert figures["b_fvd"]["judge"].startswith("I3D logits, Kinetics-400 RGB, weights rgb_imagenet.pt")
    assert figures["avg_kid"]["judge"].startswith("FID's own Inception v3")
    too_short = [*words, *given[:2], "--metrics", "b_fvd", "--block", "5", "--feature-width", "2"]
    assert run(too_short) == 2
