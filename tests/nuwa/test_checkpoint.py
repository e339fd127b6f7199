"""Checkpoints are whole or not there; a damaged one is noticed."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nuwa.train.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    load_checkpoint,
    load_newest,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from nuwa.train.config import TrainError
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


def test_only_the_newest_are_kept_and_no_draft_remains(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(made(step), tmp_path, keep=2)
    assert steps_in(tmp_path) == [2, 3]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000002", "step-000003"]


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
