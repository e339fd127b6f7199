"""Checkpoints of a training run: safetensors and JSON, whole or not there at all.

`checkpoints/step-000123/` holds weights, averaged weights, optimiser moments, random state and position after
123 steps. It is written under a temporary name and then renamed; `state.json` lists the size and CRC of every
other file, so that a damaged checkpoint is noticed and an older one takes its place.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nuwa.train.config import TrainError
from nuwa.train.run_folder import step_name, steps_in

Tensors = dict[str, torch.Tensor]
PARTS = ("weights", "ema", "optimizer", "rng")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State of a training after `step` steps; `numbers` are scalars that belong to it (counters)."""

    step: int
    weights: Tensors
    ema: Tensors
    optimizer: Tensors
    rng: Tensors
    numbers: dict[str, float]


class DamagedCheckpointError(TrainError):
    """A file of a checkpoint is missing, cut short or altered."""


def save_checkpoint(checkpoint: Checkpoint, root: Path, keep: int) -> Path:
    """Write a checkpoint below `root`, atomically, and remove all but the newest `keep`.

    Raises TrainError when it cannot be written; the earlier ones are then all there.
    """
    folder = root / step_name(checkpoint.step)
    draft = root / f"_{folder.name}.{os.getpid()}"
    try:
        _write(checkpoint, draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
        _flush(root)
    except (OSError, SafetensorError) as error:
        raise TrainError(
            f"checkpoint {folder} cannot be written ({error}); make room and give the same command again"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in steps_in(root)[:-keep]:
        shutil.rmtree(root / step_name(old), ignore_errors=True)
    return folder


def _write(checkpoint: Checkpoint, draft: Path) -> None:
    """All files of a checkpoint, on the disk when this returns."""
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for part in PARTS:
        tensors = {name: tensor.detach().contiguous() for name, tensor in getattr(checkpoint, part).items()}
        save_file(tensors, draft / f"{part}.safetensors")
    files = {f"{part}.safetensors": _signature(draft / f"{part}.safetensors") for part in PARTS}
    state = {"step": checkpoint.step, "numbers": checkpoint.numbers, "files": files}
    (draft / "state.json").write_text(json.dumps(state, indent=2) + "\n", "utf-8")
    for path in draft.iterdir():
        _flush(path)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint. Raises DamagedCheckpointError, naming the file and what is wrong with it."""
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        for name, expected in state["files"].items():
            found = _signature(folder / name)
            if found != expected:
                raise DamagedCheckpointError(
                    f"{folder / name} is damaged: {found['bytes']} bytes, crc {found['crc32']}; "
                    f"written were {expected['bytes']} bytes, crc {expected['crc32']}"
                )
        parts = {part: load_file(folder / f"{part}.safetensors") for part in PARTS}
        return Checkpoint(step=state["step"], numbers=state["numbers"], **parts)
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise DamagedCheckpointError(f"checkpoint {folder} cannot be read: {error!r}") from error


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint below `root` (None when there is none) and what was wrong with newer ones.

    Raises TrainError when checkpoints exist and none can be read.
    """
    problems: list[str] = []
    for step in reversed(steps_in(root)):
        try:
            return load_checkpoint(root / step_name(step)), problems
        except DamagedCheckpointError as error:
            problems.append(str(error))
    if problems:
        raise TrainError(f"no checkpoint below {root} can be read ({problems[0]}); remove that folder to start anew")
    return None, problems


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> Tensors:
    """Optimiser state as named tensors: `moment/weight name`. `names` in the order of the parameters."""
    state = optimizer.state_dict()["state"]
    return {
        f"{moment}/{names[number]}": torch.as_tensor(value)
        for number, moments in state.items()
        for moment, value in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Take back what `optimizer_tensors` gave."""
    numbers = {name: number for number, name in enumerate(names)}
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        moment, name = key.split("/", 1)
        state.setdefault(numbers[name], {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _signature(path: Path) -> dict[str, int]:
    data = path.read_bytes()
    return {"bytes": len(data), "crc32": zlib.crc32(data)}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
