"""Checkpoints of a training run: safetensors and JSON, whole or not there at all.

`checkpoints/step-000123/` holds weights, averaged weights, optimiser moments, random state and position after
123 steps. It is written under a temporary name and then renamed; `state.json` lists the size and CRC of every
other file, so that a damaged checkpoint is noticed and an older one takes its place. `checkpoints/best.json` names the
step of the best one, which stays when others go.

Tensors are whole in it, however the weights lay on the workers, so any number of workers goes on from it.
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

from nuwa.generate.pipeline_folder import open_to_readers
from nuwa.train import workers
from nuwa.train.config import TrainError
from nuwa.train.run_folder import step_name, steps_in
from nuwa.train.shards import Tensors

PARTS = ("weights", "ema", "optimizer", "rng")
_BEST = "best.json"
_PIECE_BYTES = 2**22


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


def save_checkpoint(checkpoint: Checkpoint, root: Path, keep: int, *, best: bool = False) -> Path:
    """Write a checkpoint below `root`, atomically, and remove all but the newest `keep` and the best.

    Later ones go too: a training goes on from the newest that can be read, so they are damaged.
    best: this one is the best so far, in place of the one that was.
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
        if best:
            _mark_best(root, checkpoint.step)
    except (OSError, SafetensorError) as error:
        raise TrainError(
            f"checkpoint {folder} cannot be written ({error}); make room and give the same command again"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    until_now = [step for step in steps_in(root) if step <= checkpoint.step]
    staying = {*until_now[-keep:], best_step(root)}
    for old in steps_in(root):
        if old not in staying or old > checkpoint.step:
            shutil.rmtree(root / step_name(old), ignore_errors=True)
    return folder


def best_step(root: Path) -> int | None:
    """Step of the checkpoint below `root` that was marked as the best; None where none is, or it is gone."""
    try:
        step = json.loads((root / _BEST).read_text("utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged: the next best one writes it anew
        return None
    return step if step in steps_in(root) else None


def _mark_best(root: Path, step: int) -> None:
    draft = root / f"_{_BEST}"
    draft.write_text(json.dumps({"step": step}) + "\n", "utf-8")
    _flush(draft)
    draft.replace(root / _BEST)


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
    open_to_readers(draft)
    for path in draft.iterdir():
        _flush(path)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint. Raises DamagedCheckpointError, naming the file and what is wrong with it."""
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        for part in PARTS:
            name = f"{part}.safetensors"
            expected, found = state["files"][name], _signature(folder / name)
            if found != expected:
                raise DamagedCheckpointError(
                    f"{folder / name} is damaged: {found['bytes']} bytes, crc {found['crc32']}; "
                    f"written were {expected['bytes']} bytes, crc {expected['crc32']}"
                )
        if step_name(state["step"]) != folder.name:
            raise DamagedCheckpointError(f"checkpoint {folder} says it is of step {state['step']}")
        parts = {part: load_file(folder / f"{part}.safetensors") for part in PARTS}
        return Checkpoint(step=state["step"], numbers=dict(state["numbers"]), **parts)
    except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, DamagedCheckpointError):  # a ValueError too
            raise
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


def load_agreed(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """`load_newest` of the first worker, in all of them; only the first one learns of problems. All workers call it."""
    checkpoint, problems = load_newest(root) if workers.number() == 0 else (None, [])
    step = workers.first_says(None if checkpoint is None else checkpoint.step)
    if checkpoint is None and step is not None:
        checkpoint = load_checkpoint(root / step_name(step))
    return checkpoint, problems


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
    """Size and CRC of a file of any size, a piece of it in memory at a time."""
    size = crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return {"bytes": size, "crc32": crc}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
