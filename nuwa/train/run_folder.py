"""The run folder of a training: whose it is, how far it got, what a killed run left behind. No torch here."""

import contextlib
import dataclasses
import fcntl
import json
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from nuwa.train.config import FREE_TO_CHANGE, TrainConfig, TrainError
from nuwa.train.config_checks import keeps_length, without_effect

_FORMAT = 2
"""1, not written: `batch` counted the windows of one worker. 2: those of all workers together."""
_BEFORE = {"first_frame_frac": 0.0, "prediction_frac": 0.0, "infilling_frac": 0.0}
"""What was in effect before a setting existed, where that is not its default now."""
_LOCK, _CONFIG_DRAFT = ".lock", "_config.json"
NODE_MARK = "_seen-"
"""How the names of files begin by which the nodes of a cluster are asked whether they see the run folder."""
PATIENCE_S = 30.0
"""How long a second training into the same folder waits for the first."""


def finished(config: TrainConfig) -> bool:
    """True when the run folder holds the last checkpoint of exactly this (resolved) training and its model."""
    last = config.output / "checkpoints" / step_name(config.steps or 0) / "state.json"
    return last.is_file() and has_model(config)


def has_model(config: TrainConfig) -> bool:
    """True when the run folder holds the model of its newest checkpoint."""
    return (config.output / "model" / "model_index.json").is_file()


def step_name(step: int) -> str:
    """Name of a checkpoint folder: step-000123."""
    return f"step-{step:06d}"


def steps_in(root: Path) -> list[int]:
    """Steps of the checkpoints below `root`, ascending; unfinished ones (`_…`) do not count."""
    names = [path.name.removeprefix("step-") for path in root.glob("step-*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def check_output(config: TrainConfig) -> None:
    """Raise TrainError when the run folder holds something else, another training, or more steps than asked for."""
    output, path = config.output, config.output / "config.json"
    if output.exists() and not output.is_dir():
        raise TrainError(f"output {output} is a file; give a folder")
    if path.is_file():
        _check_same(config, path)
        _check_steps(config)
    elif output.is_dir() and not all(_is_of_a_start(each.name) for each in output.iterdir()):
        raise TrainError(f"output {output} is not empty and holds no training run; give a new or empty folder")


def _is_of_a_start(name: str) -> bool:
    """True of what a training killed in its first moment leaves in its new run folder."""
    return name in (_LOCK, _CONFIG_DRAFT) or name.startswith(NODE_MARK)


def check_inputs(config: TrainConfig, inputs: Mapping[str, object]) -> None:
    """Raise TrainError when what a training went on from is not what it began with, which config.json has as `inputs`.

    Nothing is known of trainings that began before this was written down, and nothing learned before a checkpoint.
    """
    path = config.output / "config.json"
    if not path.is_file() or not steps_in(config.output / "checkpoints"):
        return
    before = _settings_in(path).get("inputs")
    if not isinstance(before, dict):
        return
    changed = [name for name, value in inputs.items() if name in before and before[name] != value]
    if changed:
        raise TrainError(
            f"output {config.output} was begun with another {' and '.join(changed)}; give the --init and --dataset "
            "that it was begun with, or another --output"
        )


def write_config(config: TrainConfig, inputs: Mapping[str, object] | None = None) -> None:
    """Make the run folder this training's own; `inputs` by name, as JSON has them."""
    draft = config.output / _CONFIG_DRAFT
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        draft.write_text(
            json.dumps(as_json(config) | {"format": _FORMAT, "inputs": dict(inputs or {})}, indent=2) + "\n", "utf-8"
        )
        draft.replace(config.output / "config.json")
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise TrainError(f"output {config.output} cannot be written to ({error}); give another --output") from error


@contextlib.contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Make the run folder and hold it, so that no other process writes into it; the system lets go when this one dies.

    Waits a while: workers of a training that was just killed may not know it yet. Raises TrainError after that. On a
    file system without locks nothing is held.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        handle = (output / _LOCK).open("a")
    except OSError as error:
        raise TrainError(f"output {output} cannot be written to ({error}); give another --output") from error
    with handle:
        deadline = time.monotonic() + PATIENCE_S
        while not _hold(handle):
            if time.monotonic() > deadline:
                raise TrainError(f"another process trains into {output}; wait for its end, or give another --output")
            time.sleep(0.2)
        yield


def _hold(handle: IO[str]) -> bool:
    """False while somebody else has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True


def remove_drafts(output: Path) -> None:
    """Remove what a killed run was just writing: half a checkpoint, half a model, half a sample.

    A model that was moved aside goes only when another has taken its place.
    """
    drafts = [*(output / "checkpoints").glob("_step-*.*"), *output.glob("_model.new-*"), *output.glob("_best.new-*")]
    drafts += [
        output / "checkpoints" / "_best.json",
        *(output / "samples").glob("_step-*"),
        *output.glob(f"{NODE_MARK}*"),
    ]
    for name in ("model", "best"):
        if (output / name).is_dir():
            drafts += output.glob(f"_{name}.old-*")
    for path in drafts:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def as_json(config: TrainConfig) -> dict[str, object]:
    """The config as JSON has it: paths as text, tuples as lists."""
    settings = dataclasses.asdict(config)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}


def _check_same(config: TrainConfig, path: Path) -> None:
    before = _settings_in(path)
    ignored = FREE_TO_CHANGE | without_effect(config).keys() | ({"length"} if keeps_length(config) else set())
    changed = {
        name: value
        for name, value in as_json(config).items()
        if name not in ignored and before[name] != value and not _same_place(before[name], getattr(config, name))
    }
    if changed:
        differences = "; ".join(f"{name} {before[name]} → {value}" for name, value in changed.items())
        raise TrainError(
            f"output {path.parent} holds another training ({differences}); give another --output, "
            f"or repeat its settings: {' '.join(_option(name, before[name]) for name in changed)}"
        )


def _same_place(before: object, now: object) -> bool:
    """True of a path that leads where the stored one led: workers on Ray store absolute ones."""
    return isinstance(now, Path) and isinstance(before, str) and Path(before).resolve() == now.resolve()


def _check_steps(config: TrainConfig) -> None:
    done, steps = steps_in(config.output / "checkpoints"), config.steps or 0
    if done and done[-1] > steps:
        raise TrainError(
            f"output {config.output} is at step {done[-1]} already, and steps is {steps}; "
            f"give --steps {done[-1]} or more, or another --output"
        )


def _settings_in(path: Path) -> dict[str, object]:
    """All settings of the training in a run folder, also those that did not exist when it began."""
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read ({error}); give another --output, or remove that folder") from error
    if not isinstance(before, dict) or "stage" not in before:
        raise TrainError(f"{path} describes no training run; give another --output")
    settings = {field.name: field.default for field in dataclasses.fields(TrainConfig)} | _BEFORE | before
    if "format" not in before and isinstance(settings["batch"], int) and isinstance(settings["workers"], int):
        settings["batch"] = settings["batch"] * settings["workers"]
    return settings


def _option(name: str, value: object) -> str:
    """How a setting is given on the command line."""
    if name == "stage":
        return str(value)
    option = f"--{name.replace('_', '-')}"
    if value is None:
        return f"no {option}"
    return f"{option} {' '.join(shlex.quote(str(each)) for each in (value if isinstance(value, list) else [value]))}"
