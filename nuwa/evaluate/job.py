"""One evaluation from folders to a report: find, check, measure clip by clip, compute, say what was left out."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nuwa.evaluate.availability import Inputs, reasons_against
from nuwa.evaluate.bootstrap import Bootstrap
from nuwa.evaluate.clip_measures import ClipMeasures, Networks, Plan, Probe, measure, spread_positions
from nuwa.evaluate.clip_model import OpenClipModel, ToyImageFeatures
from nuwa.evaluate.config import OF_BLOCKS, OF_FRAMES, EvaluateConfig, Metric, check_config
from nuwa.evaluate.decoding import Format, choose_format, parts, prompts_of, read_clips, spread
from nuwa.evaluate.features import ImageFeatures, ToyVideoFeatures, VideoFeatures
from nuwa.evaluate.figures import Comparison, Measured
from nuwa.evaluate.report import compute_figures, figure_json, footage_json, not_found
from nuwa.evaluate.scene_probe import SceneProbe, asks_anything
from nuwa.evaluate.sources import Footage, Source, UnreadableVideoError, find_footage
from nuwa.hierarchy import NuwaError

Report = dict[str, Any]
Chosen = list[tuple[Source, list[int]]]
PACKAGES = ("nuwa-xl", "torch", "torchvision", "open_clip_torch", "numpy", "opencv-python-headless", "av")


@dataclass(frozen=True)
class Job:
    """Everything that is known before the first frame is decoded."""

    config: EvaluateConfig
    wanted: Format
    real: Footage
    generated: Footage
    real_chosen: Chosen
    generated_chosen: Chosen
    too_short: tuple[str, ...]

    @property
    def clips(self) -> int:
        """Clips to measure."""
        return sum(len(chosen) for _, chosen in (*self.real_chosen, *self.generated_chosen))


def prepare(config: EvaluateConfig) -> Job:
    """Find all videos and decide size, rate and length. Raises NuwaError for whatever the user must change."""
    check_config(config)
    generated, real = find_footage(config.generated, "--generated"), find_footage(config.real, "--real")
    wanted = choose_format(generated.sources, real.sources, config.size, config.fps, config.frames)
    of_generated = [(source, [0]) for source in generated.sources if parts(source, wanted, whole=True)]
    short = tuple(source.path.name for source in generated.sources if not parts(source, wanted, whole=True))
    of_real = spread(real, wanted, config.real_videos)
    if not of_real:
        longest = max(wanted.count(source) for source in real.sources)
        raise NuwaError(
            f"--real {config.real}: no video has {wanted.frames} frames at {wanted.fps:g} fps, the longest has "
            f"{longest}; give --frames {longest} or less, or longer footage"
        )
    return Job(config, wanted, real, generated, of_real, of_generated, short)


def evaluate(
    job: Job,
    probes: Mapping[str, Probe] | None = None,
    on_clip: Callable[[], None] = lambda: None,
    scene_probe: SceneProbe | None = None,
) -> Report:
    """Measure every clip and compute every figure that was asked for and can be had.

    probes: name → callable that scores frames by their prompts (`nuwa.evaluate.clip_measures.Probe`)
    on_clip: called after each clip
    scene_probe: reads what scenes show (`nuwa.evaluate.scene_probe`)
    Raises NuwaError for a figure that was asked for by name and cannot be had, and for a scene probe that reads nothing
    of what any prompt asks for.
    """
    if scene_probe is not None:
        _check_scenes(job, scene_probe)
    loaded = load_networks(job.config, job.config.wanted, probes or {}, scene_probe)
    metrics = _allowed(job, loaded)
    plan = Plan(
        wanted=job.wanted,
        block=min(job.config.block, job.wanted.frames),
        positions=spread_positions(job.wanted.frames, job.config.positions),
        flow=job.config.flow,
        metrics=frozenset(metrics),
        windows=_windows(job) if "seams" in metrics else None,
    )
    networks = _needed(loaded, plan.metrics)
    generated, lost = _measure_all(job.generated_chosen, networks, plan, on_clip)
    real, lost_real = _measure_all(job.real_chosen, networks, plan, on_clip)
    left_out = _reasons(job, loaded, metrics, real, generated) | _reasons(job, loaded, job.config.wanted)
    _insist(job.config.metrics, left_out, lost + lost_real)
    bootstrap = Bootstrap(draws=job.config.bootstrap, seed=job.config.seed)
    sets = Comparison(real, generated, bootstrap, job.config.splits)
    allowed = [name for name in metrics if name not in left_out]
    figures = compute_figures(allowed, sets, networks, plan, job.config.feature_width)
    left_out |= not_found(allowed, networks.probes, networks.scenes, figures)
    return {
        "figures": {figure.name: figure_json(figure) for figure in figures},
        "left_out": left_out,
        "format": vars(job.wanted) | {"block": plan.block, "positions": plan.positions.tolist()},
        "real": footage_json(job.real, real, [*job.real.skipped, *lost_real], ()),
        "generated": footage_json(job.generated, generated, [*job.generated.skipped, *lost], job.too_short),
        "judges": {
            kind: net.name
            for kind, net in (("image", networks.image), ("video", networks.video), ("clip", networks.clip))
            if net is not None
        },
        "settings": {name: _plain(value) for name, value in vars(job.config).items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def load_networks(
    config: EvaluateConfig,
    metrics: Sequence[Metric],
    probes: Mapping[str, Probe],
    scene_probe: SceneProbe | None = None,
) -> Networks:
    """The feature networks that these metrics need; the field's own where their weights were given by path."""
    device = _device(config.device)
    of_frames, of_blocks = set(metrics) & set(OF_FRAMES), set(metrics) & set(OF_BLOCKS)
    needs_clip = "clipsim" in metrics or (of_frames and config.inception is None)
    clip = OpenClipModel.from_folder(config.clip, device) if needs_clip else None
    image: ImageFeatures | None = None
    video: VideoFeatures | None = None
    if of_frames and config.inception is not None:
        from nuwa.evaluate.inception import InceptionFeatures  # imports torchvision's models

        image = InceptionFeatures.from_file(config.inception, device)
    elif of_frames and clip is not None:
        image = ToyImageFeatures(clip)
    if of_blocks and config.i3d is not None:
        from nuwa.evaluate.i3d import I3DFeatures

        video = I3DFeatures.from_file(config.i3d, device)
    elif of_blocks:
        video = ToyVideoFeatures()
    return Networks(image=image, video=video, clip=clip, probes=probes, scenes=scene_probe)


def write_report(report: Report, path: Path) -> None:
    """Write the report, complete or not at all."""
    draft = path.with_name(f"_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise NuwaError(f"{path} cannot be written ({error}); give another --output") from error


def _allowed(job: Job, networks: Networks) -> list[Metric]:
    """Metrics to compute. NuwaError for one that was asked for by name and cannot be had."""
    against = _reasons(job, networks, job.config.wanted)
    for name in job.config.metrics:
        if name in against:
            raise NuwaError(f"--metrics {name}: {against[name]}")
    return [name for name in job.config.wanted if name not in against]


def _check_scenes(job: Job, probe: SceneProbe) -> None:
    """Raise NuwaError where the probe has nothing to compare with."""
    prompts = [prompt for source, _ in job.generated_chosen for prompt in source.prompts]
    if not prompts:
        raise NuwaError(
            f"probe {probe.name}: no generated video has prompts; put the .json of pipelines.generate beside each"
        )
    if not asks_anything(prompts, probe):
        known = "; ".join(f"{attribute}: {', '.join(words)}" for attribute, words in probe.choices.items())
        raise NuwaError(
            f"probe {probe.name}: no prompt asks for anything that it reads ({known}); leave it away for other videos"
        )


def _insist(asked: Sequence[Metric], left_out: Mapping[str, str], lost: Sequence[tuple[str, str]]) -> None:
    """Raise NuwaError when damaged videos took away what a figure needs that was asked for by name."""
    for name in asked:
        if name in left_out:
            raise NuwaError(f"--metrics {name}: {left_out[name]} ({len(lost)} could not be decoded: {lost[0][1]})")


def _reasons(
    job: Job,
    networks: Networks,
    metrics: Sequence[Metric],
    real: Measured | None = None,
    generated: Measured | None = None,
) -> dict[str, str]:
    """Why some metrics cannot be had, by the videos that were found or, later, by those that could be read."""
    inputs = Inputs(
        real=len(real.clips) if real else sum(len(chosen) for _, chosen in job.real_chosen),
        real_sources=len(np.unique(real.sources)) if real else len(job.real_chosen),
        generated=len(generated.clips) if generated else len(job.generated_chosen),
        prompts=any(source.prompts for source, _ in job.generated_chosen),
        windows=_windows(job),
        wanted=job.wanted,
        positions=len(spread_positions(job.wanted.frames, job.config.positions)),
        block=job.config.block,
        feature_width=job.config.feature_width,
        image_width=networks.image.width if networks.image else 0,
        video_width=networks.video.width if networks.video else 0,
        shortest_block=networks.video.shortest if networks.video else 0,
    )
    return reasons_against(metrics, inputs)


def _windows(job: Job) -> tuple[int, int] | None:
    """Length and depth of the windows, when all generated videos were made alike and are judged frame by frame."""
    made = {(source.window_length, source.depth) for source, _ in job.generated_chosen}
    whole = all(job.wanted.keeps_frames(source) for source, _ in job.generated_chosen)
    if len(made) != 1 or not whole:
        return None
    length, depth = made.pop()
    return (length, depth) if length is not None and depth is not None and depth > 1 else None


def _needed(networks: Networks, metrics: frozenset[str]) -> Networks:
    return Networks(
        image=networks.image if metrics & set(OF_FRAMES) else None,
        video=networks.video if metrics & set(OF_BLOCKS) else None,
        clip=networks.clip if "clipsim" in metrics else None,
        probes=networks.probes,
        scenes=networks.scenes,
    )


def _measure_all(
    chosen: Chosen, networks: Networks, plan: Plan, on_clip: Callable[[], None]
) -> tuple[Measured, list[tuple[str, str]]]:
    """Measures of all clips, and the videos that turned out to be damaged, none of whose clips counts."""
    clips, sources, lost = list[ClipMeasures](), list[int](), list[tuple[str, str]]()
    for number, (source, wanted_parts) in enumerate(chosen):
        other, other_parts = chosen[(number + 1) % len(chosen)]
        others = prompts_of(other, other_parts[0], plan.wanted) if other is not source else ()
        try:
            mine = []
            for clip in read_clips(source, wanted_parts, plan.wanted):
                mine.append(measure(clip, others, networks, plan))
                on_clip()
        except UnreadableVideoError as error:
            lost.append((source.path.name, str(error)))
            continue
        clips += mine
        sources += [number] * len(mine)
    if not clips:
        raise NuwaError(f"none of {len(chosen)} videos can be decoded, the first because {lost[0][1]}; replace them")
    return Measured(clips, np.array(sources)), lost


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise NuwaError("--device cuda: this machine has no CUDA device; give --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
