"""Checkpoints are whole or not there; a damaged one is noticed."""

import dataclasses
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nuwa.train.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    best_step,
    load_checkpoint,
    load_newest,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from nuwa.train.config import TrainError
from nuwa.train.learner import Learner
from nuwa.train.run_folder import steps_in
from tests.nuwa.small_files import files_up_to


def made(step: int) -> Checkpoint:
    weights = {"w": torch.full((3,), float(step))}
    return Checkpoint(
        step=step,
        weights=weights,
        ema={"w": torch.zeros(3)},
        optimizer={"exp_avg/w": torch.ones(3)},
        rng={"torch": torch.get_rng_state()},
        numbers={"ema_updates": step},
    )


def test_round_trip(tmp_path: Path) -> None:
    folder = save_checkpoint(made(7), tmp_path, keep=2)
    assert folder.name == "step-000007"
    loaded = load_checkpoint(folder)
    assert loaded.step == 7
    assert loaded.numbers == {"ema_updates": 7}
    assert torch.equal(loaded.weights["w"], torch.full((3,), 7.0))
    assert torch.equal(loaded.rng["torch"], torch.get_rng_state())
    assert (
        len({path.stat().st_mode for path in folder.iterdir()}) == 1
    )  # others may read weights as they may state.json


def test_only_the_newest_are_kept_and_no_draft_remains(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(made(step), tmp_path, keep=2)
    assert steps_in(tmp_path) == [2, 3]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000002", "step-000003"]


def test_a_damaged_one_later_than_the_newest_takes_no_place(tmp_path: Path) -> None:
    """Going on from step 2: what is written before step 8 comes round again is kept."""
    for step in (2, 8):
        save_checkpoint(made(step), tmp_path, keep=2, best=step == 8)
    (tmp_path / "step-000008/state.json").write_text("{")
    save_checkpoint(made(4), tmp_path, keep=1)
    assert steps_in(tmp_path) == [4]


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "rng.safetensors"])
def test_a_truncated_checkpoint_gives_way_to_the_one_before_and_says_so(tmp_path: Path, name: str) -> None:
    for step in (2, 4):
        save_checkpoint(made(step), tmp_path, keep=2)
    damaged = tmp_path / "step-000004" / name
    damaged.write_bytes(damaged.read_bytes()[:-5])
    checkpoint, problems = load_newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert len(problems) == 1
    assert "step-000004" in problems[0]


def replace_file(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no state": lambda folder: (folder / "state.json").unlink(),
    "empty state": lambda folder: replace_file(folder / "state.json", ""),
    "state is a list": lambda folder: replace_file(folder / "state.json", "[]"),
    "state is null": lambda folder: replace_file(folder / "state.json", "null"),
    "state without files": lambda folder: replace_file(folder / "state.json", '{"step": 4, "numbers": {}}'),
    "files is text": lambda folder: replace_file(folder / "state.json", '{"step": 4, "numbers": {}, "files": "x"}'),
    "state is no text": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe\x00"),
    "numbers is a number": lambda folder: edit_state(folder, numbers=3),
    "step of another": lambda folder: edit_state(folder, step=2),
    "step is text": lambda folder: edit_state(folder, step="four"),
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "empty weights": lambda folder: replace_file(folder / "weights.safetensors", ""),
    "weights are a folder": lambda folder: become_a_folder(folder / "weights.safetensors"),
    "weights of another step": lambda folder: copy_from_before(folder, "weights.safetensors"),
    "no moments": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "no average": lambda folder: (folder / "ema.safetensors").unlink(),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
    "weights that the sum covers and are none": lambda folder: swear(folder, "weights.safetensors", b"no tensors"),
}


def edit_state(folder: Path, **changes: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def copy_from_before(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder.parent / "step-000002" / name).read_bytes())


def swear(folder: Path, name: str, data: bytes) -> None:
    """A file that is damaged and whose sum fits, as when it was written damaged."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "state.json").read_text())["files"]
    edit_state(folder, files=files | {name: {"bytes": len(data), "crc32": zlib.crc32(data)}})


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_kind_of_damage_gives_way_to_the_checkpoint_before_and_is_one_line(tmp_path: Path, damage: str) -> None:
    for step in (2, 4):
        save_checkpoint(made(step), tmp_path, keep=2)
    DAMAGE[damage](tmp_path / "step-000004")
    checkpoint, problems = load_newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 2
    (problem,) = problems
    assert "step-000004" in problem
    assert "\n" not in problem


def test_what_is_no_checkpoint_does_not_count(tmp_path: Path) -> None:
    save_checkpoint(made(2), tmp_path, keep=2)
    (tmp_path / "step-mine").mkdir()
    (tmp_path / "step-000009").write_text("a file")
    assert steps_in(tmp_path) == [2]
    assert load_newest(tmp_path)[1] == []


def test_the_best_stays_when_others_go_until_there_is_a_better_one(tmp_path: Path) -> None:
    assert best_step(tmp_path) is None
    for step in (1, 2, 3, 4):
        save_checkpoint(made(step), tmp_path, keep=1, best=step == 2)
    assert steps_in(tmp_path) == [2, 4]
    assert best_step(tmp_path) == 2
    checkpoint, _ = load_newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 4
    save_checkpoint(made(5), tmp_path, keep=1, best=True)
    assert (steps_in(tmp_path), best_step(tmp_path)) == ([5], 5)
    assert not list(tmp_path.glob("_*"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": "two"}', '{"step": 7}'])
def test_a_damaged_mark_of_the_best_costs_no_training(tmp_path: Path, text: str) -> None:
    save_checkpoint(made(1), tmp_path, keep=1, best=True)
    (tmp_path / "best.json").write_text(text)
    assert best_step(tmp_path) is None
    save_checkpoint(made(2), tmp_path, keep=1)
    assert steps_in(tmp_path) == [2]


def test_a_checkpoint_of_another_network_is_one_line(tmp_path: Path) -> None:
    learner = Learner(torch.nn.Linear(2, 1), weight_decay=0.0, clip_norm=1.0)
    with pytest.raises(
        TrainError, match=r"checkpoint of step 3 has none for weight weight of \(1, 2\): it is of another"
    ):
        learner.load(made(3))
    other = dataclasses.replace(made(3), weights={"weight": torch.zeros(1, 5), "bias": torch.zeros(1)})
    with pytest.raises(TrainError, match=r"one of \(1, 5\) for weight weight of \(1, 2\).*give the --init"):
        learner.load(other)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    folder = save_checkpoint(made(1), tmp_path, keep=1)
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(DamagedCheckpointError, match=r"weights\.safetensors is damaged"):
        load_checkpoint(folder)


def test_an_interrupted_write_does_not_count(tmp_path: Path) -> None:
    save_checkpoint(made(1), tmp_path, keep=2)
    (tmp_path / "_step-000002.99").mkdir()
    checkpoint, problems = load_newest(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, problems) == (1, [])


@pytest.mark.parametrize("limit_bytes", [10_000, 100], ids=["weights", "first byte"])
def test_a_full_disk_is_one_line_and_costs_no_earlier_checkpoint(tmp_path: Path, limit_bytes: int) -> None:
    save_checkpoint(made(1), tmp_path, keep=1)
    larger = dataclasses.replace(made(2), weights={"w": torch.zeros(10_000)})
    message = r"step-000002 cannot be written .*File too large.*make room"
    with pytest.raises(TrainError, match=message) as caught, files_up_to(limit_bytes):
        save_checkpoint(larger, tmp_path, keep=1)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    save_checkpoint(larger, tmp_path, keep=1)
    assert steps_in(tmp_path) == [2]


def test_no_readable_checkpoint_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])
    folder = save_checkpoint(made(1), tmp_path, keep=2)
    (folder / "state.json").unlink()
    with pytest.raises(TrainError, match="no checkpoint below"):
        load_newest(tmp_path)


def test_optimizer_state_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    names = [name for name, _ in module.named_parameters()]
    first = torch.optim.AdamW(module.parameters(), 0.1)
    module(torch.ones(1, 3)).sum().backward()
    first.step()
    second = torch.optim.AdamW(module.parameters(), 0.1)
    load_optimizer(second, names, optimizer_tensors(first, names))
    for (_, a), (_, b) in zip(first.state.items(), second.state.items(), strict=True):
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
