"""The JSON beside a generated video: all that is needed to make it again, and every frame's prompt."""

import hashlib
import json
import platform
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nuwa.generate.config import GenerateConfig, command_line, work_folder
from nuwa.generate.given_frames import GivenClip
from nuwa.generate.pipeline import pick_device
from nuwa.generate.pipeline_folder import StoredPipeline
from nuwa.generate.story import Story, spans
from nuwa.generate.video_files import SUFFIXES, format_of
from nuwa.generate.windows import Sampling
from nuwa.hierarchy import NuwaError, plan, strides

Record = dict[str, Any]

WINDOWS_DEPEND_ON = (
    "weights_sha256",
    "num_frames",
    "depth",
    "window_length",
    "height",
    "width",
    "sampling",
    "level_spans",
    "given",
    "mode",
    "style",
)
"""Entries that decide what the windows hold; two records that agree in these have the same windows. A clip made in one
pass is one window; only its record has a mode and a style."""
DEPENDS_ON = (*WINDOWS_DEPEND_ON, "put_back", "super_resolution", "upscale", "format")
"""Entries that decide what the file holds."""
PACKAGES = ("nuwa-xl", "torch", "diffusers", "transformers", "numpy", "av")


def describe(
    config: GenerateConfig,
    story: Story,
    stored: StoredPipeline,
    sampling: Sampling,
    prompts: Sequence[Sequence[str]],
    clips: Sequence[GivenClip],
    super_resolution: Record | None = None,
) -> Record:
    """The record of one video made by the pipeline at `config.model`, with one list of prompts per level.

    super_resolution: what makes its frames larger, if anything does
    """
    length, frames, depth = stored.window_length, len(prompts[-1]), len(prompts)
    return {
        **origin(config, story, stored, sampling),
        "num_frames": frames,
        "depth": depth,
        "windows": [len(level) for level in plan(frames, length, depth)],
        "strides": strides(length, depth),
        **timed(prompts, sampling.fps),
        "given": [clip.describe() for clip in clips],
        **({} if super_resolution is None else {"super_resolution": super_resolution}),
        **surroundings(config),
    }


def origin(config: GenerateConfig, story: Story, stored: StoredPipeline, sampling: Sampling) -> Record:
    """The command, the weights, and what both decide of any video."""
    return {
        "command": command_line(config),
        "folder": str(Path.cwd()),  # where the command was given: its paths start there
        "model": str(config.model),
        "weights_sha256": stored.weights_sha256,
        "story": asdict(story),
        "fps": sampling.fps,
        "window_length": stored.window_length,
        "height": stored.height,
        "width": stored.width,
        "upscale": config.upscale,
        "format": format_of(config.output),
        "sampling": asdict(sampling),
    }


def timed(prompts: Sequence[Sequence[str]], fps: float) -> Record:
    """Prompts and the spans that they hold, one list per level."""
    return {
        "spans": [
            {**vars(span), "first_s": span.first / fps, "end_s": (span.last + 1) / fps} for span in spans(prompts[-1])
        ],
        "level_spans": [[[span.prompt, span.first, span.last] for span in spans(level)] for level in prompts],
        "prompts": list(prompts[-1]),
    }


def surroundings(config: GenerateConfig) -> Record:
    """Device and versions."""
    return {
        "device": _device(torch.device(pick_device(config.device))),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def identity(record: Record) -> str:
    """Text that is the same for the same windows only: everything that decides what they hold, as JSON.

    Given frames count by their pixels: the last bits of their latents may differ from one machine to another.
    """
    entries = {name: record[name] for name in WINDOWS_DEPEND_ON if name in record}
    prompts = hashlib.sha256(_dump(entries.pop("level_spans")).encode()).hexdigest()
    return _dump({**entries, "given": _hashes(record), "prompts": prompts}, indent=1)


def enlarged_identity(record: Record) -> str:
    """The same for segments of enlarged frames."""
    entries = json.loads(identity(record))
    names = ("super_resolution", "put_back")
    return _dump({**entries, **{name: record[name] for name in names if name in record}}, indent=1)


def is_done(video: Path, record: Record) -> bool:
    """True when `video` already shows what `record` asks for.

    Raises NuwaError, with what differs, when files are there that came from something else: they are not touched.
    """
    path, there = record_path(video), _is_there(video)
    if not there and not path.exists():
        return False
    old, new = _read(path), json.loads(_dump(record))
    differing = _differences(old, new, DEPENDS_ON)
    if differing:
        raise NuwaError(_refusal(video, there, old, new, ", ".join(differing)))
    return there


def record_path(video: Path) -> Path:
    """The JSON that belongs to a video."""
    return video.with_suffix(".json")


def write_record(video: Path, record: Record) -> None:
    """Write the record beside `video` under the same name, complete or not at all."""
    path = record_path(video)
    draft = path.with_name(f"_{path.name}.{secrets.token_hex(8)}")  # a name that nobody has
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(_dump(record, indent=1) + "\n", "utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise NuwaError(f"{path.parent} cannot be written to ({error}); give another --output") from error


def _is_there(video: Path) -> bool:
    """Something is at this place; an empty folder may be filled."""
    return video.exists() and not (video.is_dir() and next(video.iterdir(), None) is None)


def _refusal(video: Path, there: bool, old: Record, new: Record, differing: str) -> str:
    """What is in the way of `video`, and what would work: the names of those files that are there, and no others."""
    path, work = record_path(video), work_folder(video)
    made = next((video.with_suffix(suffix) for kind, suffix in SUFFIXES.items() if kind == old.get("format")), video)
    stale = [work.name] if work.exists() and _differences(old, new, WINDOWS_DEPEND_ON) else []
    if old and made != video and _is_there(made):
        return f"{path} belongs to {made.name} and differs in {differing}; give --output another name than {video.stem}"
    if old and not there:
        return (
            f"{path} is there already and differs in {differing}, of {made.name}, which is not complete; "
            f"give the old settings to go on, or remove {' and '.join([path.name, *stale])}"
        )
    if not there:
        return f"{path} is there already and is no record of a video; give another --output"
    others = ["it", *([path.name] if path.exists() else []), *stale]
    return (
        f"{video} is there already and differs in {differing}; give another --output, or remove {' and '.join(others)}"
    )


def _differences(old: Record, new: Record, names: Sequence[str]) -> list[str]:
    """Which of these entries are not the same, with both values where they are short."""
    if not old:
        return ["everything (there is no record that says how it was made)"]
    found = []
    for name in names:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += [_difference(key, before.get(key), after[key]) for key in after if before.get(key) != after[key]]
        elif name == "given" and _hashes(old) != _hashes(new):
            found.append("given frames")
        elif name == "level_spans" and before != after:
            found.append("prompts")
        elif name != "given" and before != after:
            found.append(_difference(name, before, after))
    return found


def _difference(name: str, before: object, after: object) -> str:
    return name if len(f"{before}{after}") > 60 else f"{name} ({before} there, {after} asked for)"


def _hashes(record: Record) -> list[Any]:
    """Given frames without the names of the files they came from."""
    return [{key: clip[key] for key in clip if key != "source"} for clip in record.get("given", [])]


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _dump(entries: object, indent: int | None = None) -> str:
    return json.dumps(entries, indent=indent, ensure_ascii=False, default=str)


def _read(path: Path) -> Record:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and "weights_sha256" in record else {}  # some other JSON of the user's
