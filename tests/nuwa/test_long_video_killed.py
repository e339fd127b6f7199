"""kill -9 at random moments, then the same command: bitwise the video of a run that nobody disturbed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # starts Python with all models several times
KILLS = 5
WINDOWS = 52  # of 150 frames: 1, 3, 10, 38

MAKE = """
import sys
import numpy as np, torch
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.long_video import frame_plan, generate_frames
from nuwa.generate.windows import Sampling, WindowSampler
from tests.nuwa import stack

torch.set_num_threads(1)
folder, output = sys.argv[1:]
plan = frame_plan(["a red star"] * 70 + ["a blue circle jumps"] * 80, stack.LENGTH)
executor = LocalExecutor(WindowSampler(stack.build(), Sampling(steps=4, seed=3, batch=2)))
tell = lambda made: print(made.windows_done, flush=True)
keep = FinishedWindows(folder, "a video")
images = np.stack(list(generate_frames(plan, executor, keep=keep, on_progress=tell)))
np.save(output, images)
"""


def start(folder: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, str(folder), str(output)]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def times(folder: Path) -> dict[str, int]:
    """When each finished window was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors") if path.name[0] != "_"}


def test_killed_at_random_and_started_again_the_video_is_bitwise_the_same(tmp_path: Path) -> None:
    draws, folder, kept = random.Random(0), tmp_path / "windows", dict[str, int]()
    for _ in range(KILLS):
        process = start(folder, tmp_path / "killed.npy")
        assert process.stdout is not None
        enough = len(kept) + draws.randint(1, 6)
        assert any(int(line) >= enough for line in process.stdout)
        time.sleep(draws.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = times(folder)
        assert now.items() >= kept.items()  # nothing finished was lost or made again
        assert len(kept) < len(now) < WINDOWS
        kept = now
    for name in ("windows", "undisturbed"):
        with start(tmp_path / name, tmp_path / f"{name}.npy") as process:
            process.communicate()
        assert process.returncode == 0
    assert times(folder).items() >= kept.items()
    assert len(times(folder)) == WINDOWS
    np.testing.assert_array_equal(np.load(tmp_path / "windows.npy"), np.load(tmp_path / "undisturbed.npy"))
