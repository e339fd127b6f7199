"""A killed training leaves the weights of an undisturbed one; and the comparison sees every kind of difference."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.processes import descendants, end_all
from benchmarks.training_kills import Trained, TrainingKills, differences, make, measure, report, toon_dataset
from nuwa.data.runs import read_runs
from nuwa.hierarchy import NuwaError


def run_folder(folder: Path) -> Path:
    """A run folder of one checkpoint and one file of a model."""
    checkpoint = folder / "checkpoints/step-000004"
    checkpoint.mkdir(parents=True)
    for part in ("weights", "ema"):
        save_file({"a": torch.arange(3.0), "b": torch.ones(2)}, checkpoint / f"{part}.safetensors")
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text("{}")
    return folder


def change_a_tensor(run: Path) -> None:
    save_file(
        {"a": torch.arange(3.0), "b": torch.tensor([1.0, 1.0000001])}, run / "checkpoints/step-000004/ema.safetensors"
    )


def lose_a_tensor(run: Path) -> None:
    save_file({"a": torch.arange(3.0)}, run / "checkpoints/step-000004/ema.safetensors")


def change_the_model(run: Path) -> None:
    (run / "model/config.json").write_text("[]")


def lose_the_model(run: Path) -> None:
    (run / "model/config.json").unlink()


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (change_a_tensor, "tensors that differ or are missing"),
        (lose_a_tensor, "tensors that differ or are missing"),
        (change_the_model, "files of model/ that differ or are missing"),
        (lose_the_model, "files of model/ that differ or are missing"),
    ],
)
def test_every_difference_is_counted(tmp_path: Path, change: Callable[[Path], None], seen: str) -> None:
    calm, other = run_folder(tmp_path / "calm"), run_folder(tmp_path / "other")
    found = differences(calm, other)
    assert found["tensors of the last checkpoint compared"] == 4
    assert not any(count for what, count in found.items() if "compared" not in what)
    change(other)
    assert {what for what, count in differences(calm, other).items() if count and "compared" not in what} == {seen}


def test_what_is_left_behind_misses_the_bar_and_is_named(tmp_path: Path) -> None:
    calm, other = (Trained(run_folder(tmp_path / name)) for name in ("calm", "other"))
    assert "**missed**" not in "".join(report(TrainingKills(), calm, other))
    (other.run / "checkpoints/_step-000005.7").mkdir()
    other.left_over = ["ray::RayTrainWorker  ", "python -m " + "x" * 100]
    rows = [line for line in report(TrainingKills(), calm, other) if "**missed**" in line]
    assert rows == [
        "| unfinished files left behind | 1 (0: **missed**): `checkpoints/_step-000005.7` |",
        f"| processes left behind | 2 (0: **missed**): `ray::RayTrainWorker`, `python -m {'x' * 70}` |",
    ]


def test_processes_may_end_by_themselves_and_those_that_do_not_are_named_and_killed() -> None:
    """The first goes soon; the second sleeps for as long as nobody kills it."""
    ending = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
    staying = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    found = {process.pid: process for process in descendants(os.getpid())}
    assert end_all([found[ending.pid]]) == []
    assert ending.wait() == 0
    (command,) = end_all([found[staying.pid]], patience_s=0.0)
    assert "time.sleep(1000)" in command
    assert staying.wait() == -signal.SIGKILL


def test_a_command_is_struck_and_given_again_until_it_is_through(tmp_path: Path) -> None:
    """One that says a step each tenth of a second, and the second time goes on at once."""
    program = (
        "import pathlib, sys, time\nat = pathlib.Path(sys.argv[1])\nbegun = int(at.read_text() or 0)\n"
        "for step in range(begun + 1, 101):\n"
        "    time.sleep(0 if begun else 0.1); at.write_text(str(step)); print(f'step {step}/100 ', flush=True)\n"
    )
    (tmp_path / "at").write_text("")
    told: list[str] = []
    command = [sys.executable, "-c", program, str(tmp_path / "at")]
    trained = make(command, Trained(tmp_path), [2], random.Random(0), told.append)
    ((step, victim),) = trained.kills
    assert step >= 2
    assert victim == "command"
    assert told == [f"command killed after step {step}"]
    assert trained.starts == 2
    with pytest.raises(RuntimeError, match="ended with 3: no"):
        make([sys.executable, "-c", "print('no'); raise SystemExit(3)"], Trained(tmp_path), [], random.Random(0), print)


def test_its_dataset_is_one(tmp_path: Path) -> None:
    runs = read_runs(toon_dataset(tmp_path / "ds", seconds=2.0))
    assert [(run.width, run.height) for run in runs] == [(32, 32)] * 2
    assert runs[0].prompt(0) == "toon episode 0"


def test_more_kills_than_steps_are_refused() -> None:
    with pytest.raises(NuwaError, match="kills is 9; give at least 1 and at most 4"):
        TrainingKills(steps=5, kills=9)


@pytest.mark.ray
@pytest.mark.slow  # starts Ray once in peace and after every kill of the command
def test_two_kills_change_no_bit(tmp_path: Path) -> None:
    config = TrainingKills(steps=12, kills=2, checkpoint_every=3, stage="image-vae", batch=4)
    lines = measure(config, tmp_path, lambda _: None)
    for what in ("tensors", "files of model/"):
        assert f"| {what} that differ or are missing | 0 (0: holds) |" in lines
    assert "**missed**" not in "\n".join(lines), lines
