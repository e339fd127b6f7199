"""Sections of the report page about training runs and about a generated video."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from curation.charts import Curve, line_chart
from curation.page import Section, strip
from curation.video import decode, probe
from nuwa.hierarchy import NuwaError

FILM_FRAMES = 24
FILM_HEIGHT_PX = 64


def training(runs: Sequence[Path]) -> Section:
    """One card per run folder: its losses, the norm of its gradient, its speed. Raises NuwaError for other folders."""
    cards = "".join(_run_card(run) for run in runs)
    note = "Loss of every stage against the optimiser step, raw and smoothed, logarithmic where it is positive."
    return Section("training", "Training", note, f'<div class="grid">{cards}</div>')


def film(video: Path) -> Section:
    """The generated video, its frames and prompts along the time axis, and which level made which frame."""
    record = _record(video)
    duration_s = record["num_frames"] / record["fps"]
    body = f"""<div class="film"><video id="player" controls loop muted playsinline
src="data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode("ascii")}"></video>
<div><div class="now" id="now">{escape(record["prompts"][0])}</div>{_facts(record)}</div></div>
<div class="card" style="margin-top:24px"><div class="timeline" data-timeline="player" data-caption="now">
<img alt="frames along the video" src="{_film_strip(video, duration_s)}">
<div class="spans">{"".join(_span(span, record) for span in record["spans"])}</div><div class="playhead"></div></div>
{_levels(record)}</div>"""
    note = "Click the strip to jump there. Below it, the frames that each level of the hierarchy fixed."
    return Section("film", "Generated video", note, body)


def _run_card(run: Path) -> str:
    config = _json(run / "config.json", "a run folder written by pipelines.train")
    curves = _curves(run / "logs")
    losses = [Curve(name.removeprefix("train/"), x, y) for name, (x, y) in curves.items() if "loss" in name]
    chart = line_chart(losses[:5], str(config.get("stage", run.name)), log_y=True)
    facts = _run_facts(curves) + _origin(config)
    return f'<div class="card">{chart}<p class="chips" style="margin-top:10px">{facts}</p></div>'


def _run_facts(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    facts = []
    if "train/loss" in curves:
        steps, loss = curves["train/loss"]
        facts += [f"{steps[-1]:.0f} steps", f"last loss {loss[-max(1, len(loss) // 10) :].mean():.3g}"]
    for tag, form in (("train/samples_per_s", "{:.3g} samples/s"), ("train/grad_norm", "gradient {:.2g}")):
        if tag in curves:
            facts.append(form.format(np.median(curves[tag][1])))
    return "".join(f'<span class="chip">{escape(fact)}</span>' for fact in facts)


def _origin(config: dict[str, Any]) -> str:
    """Which weights a training went on from."""
    init = config.get("init")
    origin = f"went on from {'/'.join(Path(init).parts[-3:])}" if init else "began with new weights"
    return f'<span class="chip">{escape(origin)}</span>'


def _curves(logs: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tag → (steps, values) of all scalars in a TensorBoard folder; empty when there is none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not logs.is_dir():
        return {}
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    for tag in sorted(events.Tags()["scalars"]):
        rows = {event.step: event.value for event in events.Scalars(tag)}
        points = np.asarray([row for row in sorted(rows.items()) if np.isfinite(row[1])], dtype=np.float64)
        if len(points):
            curves[tag] = (points[:, 0], points[:, 1])
    return curves


def _json(path: Path, wanted: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NuwaError(f"{path} cannot be read ({error}); give {wanted}") from error
    return content


def _record(video: Path) -> dict[str, Any]:
    wanted = "the .mp4 that pipelines.generate wrote, with its .json beside it"
    if not video.is_file():
        raise NuwaError(f"there is no video {video}; give {wanted}")
    record = _json(video.with_suffix(".json"), wanted)
    needed = {"num_frames", "fps", "spans", "prompts", "strides", "windows", "sampling", "depth", "window_length"}
    missing = (needed | {"model", "weights_sha256"}) - record.keys()
    if missing:
        raise NuwaError(f"{video.with_suffix('.json')} lacks {', '.join(sorted(missing))}; give {wanted}")
    return record


def _facts(record: dict[str, Any]) -> str:
    sampling, info = record["sampling"], record
    windows = " + ".join(str(count) for count in record["windows"])
    facts = {
        "length": f"{info['num_frames']} frames, {info['num_frames'] / info['fps']:.1f} s at {info['fps']:g} fps",
        "hierarchy": f"{info['depth']} levels of windows of {info['window_length']} frames: {windows} windows",
        "sampling": f"{_per_level(sampling['steps'])} steps, guidance {_per_level(sampling['guidance'])}, "
        f"seed {sampling['seed']}",
        "model": f"{info['model']} ({info['weights_sha256'][:12]})",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return f"<dl>{rows}</dl>"


def _per_level(values: float | list[float]) -> str:
    """One number, or those of the levels, global first."""
    return " / ".join(f"{number:g}" for number in (values if isinstance(values, list) else [values]))


def _film_strip(video: Path, duration_s: float) -> str:
    """Frames at the middle of equal parts of the video, side by side."""
    wanted = [(n + 0.5) * duration_s / FILM_FRAMES for n in range(FILM_FRAMES)]
    images: list[np.ndarray] = []
    last = None
    for frame in decode(str(video)):
        while len(images) < len(wanted) and frame.time_s > wanted[len(images)] and last is not None:
            images.append(last)
        last = frame.image
    assert last is not None, f"{probe(str(video))} has no frame"
    return strip([*images, *[last] * (len(wanted) - len(images))], FILM_HEIGHT_PX)


def _span(span: dict[str, Any], record: dict[str, Any]) -> str:
    prompt, share = escape(span["prompt"]), span["last"] - span["first"] + 1
    times = f'data-start="{span["first_s"]}" data-end="{span["end_s"]}"'
    return f'<span {times} title="{prompt}" style="flex:{share} 1 0">{prompt}</span>'


def _levels(record: dict[str, Any]) -> str:
    """One row per level: a mark for every frame that the level was the first to fix."""
    total, strides = record["num_frames"], record["strides"]
    rows = []
    for level, stride in enumerate(strides):
        above = strides[level - 1] if level else 0
        frames = [n for n in range(0, total, stride) if not above or n % above]
        marks = "".join(f'<rect x="{1000 * n / total:.2f}" y="2" width="2" height="12"/>' for n in frames)
        rows.append(
            f"<p>level {level}: {len(frames)} frames, stride {stride}</p>"
            f'<svg viewBox="0 0 1000 16" preserveAspectRatio="none" aria-hidden="true">{marks}</svg>'
        )
    return f'<div class="levels">{"".join(rows)}</div>'
