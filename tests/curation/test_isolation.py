"""A child that crashes, hangs, outgrows its memory or is left behind; what becomes of the video it worked on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curation import analyse
from curation.analyse import analyse_video, decode_for_parent
from curation.isolation import KillableWorker, WorkerDiedError
from curation.spool import PictureSpool
from tests.curation.filmed import HARD_CUTS_ONLY, pack, shot, with_small_frames

GIB = 1 << 30
LIMIT_S = 30.0


def die(*arguments: object) -> None:
    os._exit(9)


def hang(*arguments: object) -> None:
    time.sleep(600)


def die_once(video: dict, config: object, descriptor: int) -> object:
    """Leaves a mark and dies the first time; decodes the second."""
    mark = Path(video["source_uri"] + ".mark")
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return decode_for_parent(video, config, descriptor)  # type: ignore[arg-type]


def allocate(size: int) -> int:
    return len(bytearray(size))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("film") / "x.mp4", shot(0, 30), [40 * k for k in range(30)])


def with_worker(monkeypatch: pytest.MonkeyPatch, function: object, limit_s: float = LIMIT_S) -> None:
    worker = KillableWorker(function, limit_s, 8 * GIB)  # type: ignore[arg-type]
    monkeypatch.setattr(analyse, "_worker", lambda config: worker)


def test_a_video_that_always_kills_its_decoder_is_quarantined(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_worker(monkeypatch, die)
    analysis = analyse_video(str(film), with_small_frames())
    video = analysis.video
    assert (video["status"], video["attempts"], video["error_stage"]) == ("quarantined", 2, "decode")
    assert (video["error_type"], video["num_clips"], len(analysis.clips)) == ("WorkerDiedError", 0, 0)
    assert "exit code 9" in str(video["error_message"])


def test_a_video_that_hangs_is_quarantined(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_worker(monkeypatch, hang, limit_s=0.2)
    video = analyse_video(str(film), with_small_frames()).video
    assert (video["status"], video["attempts"]) == ("quarantined", 2)
    assert "hangs" in str(video["error_message"])


def test_a_second_try_counts(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_worker(monkeypatch, die_once)
    analysis = analyse_video(str(film), with_small_frames())
    assert (analysis.video["status"], analysis.video["attempts"], len(analysis.clips)) == ("ok", 2, 1)
    assert analysis.clips[0].frames.shape == (3, 32, 48, 3)


def test_ordinary_ends_have_one_attempt(film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 99)
    videos = [analyse_video(str(path), HARD_CUTS_ONLY).video for path in (film, tmp_path / "text.mp4")]
    assert [(video["status"], video["attempts"]) for video in videos] == [("ok", 1), ("failed", 1)]


def test_memory_is_limited_and_the_child_lives_on() -> None:
    worker: KillableWorker[int] = KillableWorker(allocate, LIMIT_S, 2 * GIB)
    with pytest.raises(MemoryError):
        worker.call(3 * GIB)
    assert worker.call(1000) == 1000
    worker.stop()


def test_a_child_killed_between_two_calls_is_replaced() -> None:
    worker: KillableWorker[int] = KillableWorker(allocate, LIMIT_S, 2 * GIB)
    assert worker.call(10) == 10
    assert worker._process is not None
    os.kill(worker._process.pid or 0, signal.SIGKILL)
    worker._process.join()
    assert worker.call(20) == 20
    worker.stop()


def test_a_file_is_shared_with_the_child(film: Path) -> None:
    spool = PictureSpool()
    worker: KillableWorker[int] = KillableWorker(os.fstat, LIMIT_S, 2 * GIB)  # type: ignore[arg-type]
    spool.add(pixels := shot(0, 1)[0])
    facts = worker.call(descriptor=spool.descriptor)
    assert facts.st_size == pixels.nbytes  # type: ignore[attr-defined]
    worker.stop()


PARENT = """
import sys
from curation.isolation import KillableWorker
from tests.curation.test_isolation import hang
worker = KillableWorker(hang, 600.0, 8 << 30)
worker._running()
print(worker._process.pid, flush=True)
worker.call()
"""


def test_a_hanging_child_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1.0)  # until it hangs
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and _state(child) != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists() or _state(child) == "Z"


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


UNGUARDED = """
from curation.analyse import analyse_video
from curation.profiles import demo
analyse_video({film!r}, demo())
"""


def test_a_script_without_a_main_guard_is_told_so(film: Path, tmp_path: Path) -> None:
    """No film is quarantined for it."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(film=str(film)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert "WorkerStartError" in last
    assert "if __name__ == '__main__':" in last


def test_dying_is_one_line() -> None:
    with pytest.raises(WorkerDiedError, match="exit code 9") as caught:
        KillableWorker(die, LIMIT_S, 8 * GIB).call()
    assert "\n" not in str(caught.value)
