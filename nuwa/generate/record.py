"""The JSON beside a generated video: all that is needed to make it again, and every frame's prompt."""

import json
from pathlib import Path
from typing import Any

import torch

from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import weights_fingerprint
from nuwa.generate.story import spans
from nuwa.generate.windows import Sampling, check_steps
from nuwa.hierarchy import NuwaError, plan, strides

DEPENDS_ON = ("weights_sha256", "prompts", "depth", "window_length", "sampling", "upscale", "height", "width")
"""Entries that decide what the video shows; two records that agree in these describe the same video."""


def describe(
    *,
    pipe: NuwaXLPipeline,
    model: Path,
    story: dict[str, Any],
    prompts: list[str],
    sampling: Sampling,
    depth: int | None,
    upscale: int,
) -> dict[str, Any]:
    """The record of one video made by `pipe`, read from the folder `model`. NuwaError if it cannot be made."""
    check_steps(pipe.scheduler, sampling.steps)
    length = pipe.config.window_length
    levels = plan(len(prompts), length, depth)
    return {
        "model": str(model),
        "weights_sha256": weights_fingerprint(model),
        "story": story,
        "num_frames": len(prompts),
        "fps": sampling.fps,
        "depth": len(levels),
        "window_length": length,
        "height": pipe.config.height,
        "width": pipe.config.width,
        "upscale": upscale,
        "sampling": vars(sampling),
        "windows": [len(level) for level in levels],
        "strides": strides(length, len(levels)),
        "spans": [
            {**vars(span), "first_s": span.first / sampling.fps, "end_s": (span.last + 1) / sampling.fps}
            for span in spans(prompts)
        ],
        "prompts": prompts,
        "device": str(pipe.device),
        "versions": {"torch": torch.__version__},
    }


def is_done(video: Path, record: dict[str, Any]) -> bool:
    """True when `video` already shows what `record` asks for.

    Raises NuwaError when files are there that came from something else: they are not touched.
    """
    path = video.with_suffix(".json")
    if not video.exists() and not path.exists():
        return False
    old = _read(path)
    differing = [name for name in DEPENDS_ON if old.get(name) != json.loads(json.dumps(record[name]))]
    if differing:
        found, beside = (video, path) if video.exists() else (path, video)
        raise NuwaError(
            f"{found} is there already and differs in {', '.join(differing)}; "
            f"give another --output, or remove it and {beside.name}"
        )
    return video.exists()


def write_record(video: Path, record: dict[str, Any]) -> None:
    """Write the record beside `video` under the same name, complete or not at all."""
    path = video.with_suffix(".json")
    draft = path.with_name(f"_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise NuwaError(f"{path.parent} cannot be written to ({error}); give another --output") from error
    draft.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
