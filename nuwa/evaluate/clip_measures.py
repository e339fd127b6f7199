"""Everything that is read from the pixels of one clip, so that it can be forgotten: features and figures per frame."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from nuwa.evaluate.clip_model import OpenClipModel, clipsim
from nuwa.evaluate.decoding import Clip, Format
from nuwa.evaluate.features import ImageFeatures, VideoFeatures
from nuwa.evaluate.flow import FlowMethod, Step, steps
from nuwa.evaluate.scene_probe import Scene, SceneProbe, read_scenes
from nuwa.evaluate.seams import Seams, gradient_energy, seams
from nuwa.hierarchy import NuwaError

Floats = NDArray[np.float64]
Probe = Callable[[NDArray[np.uint8], Sequence[str]], NDArray[np.floating]]
"""Frames (t h w 3) uint8 RGB and their prompts → a score per frame (t,), NaN where the prompt says nothing to check.

Probes come in from outside: this library knows no world that it could ask about.
"""
BATCH = 16
"""Images per call of a feature network."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What judges; None for what was not asked for."""

    image: ImageFeatures | None = None
    video: VideoFeatures | None = None
    clip: OpenClipModel | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    scenes: SceneProbe | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which measures to take and at what places of a clip.

    windows: length and depth of the windows that made the generated clips; real ones are read at the same places
    """

    wanted: Format
    block: int
    positions: NDArray[np.int64]
    flow: FlowMethod
    metrics: frozenset[str]
    windows: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipMeasures:
    """What is known of one clip.

    image: (p d) features of the frames at `Plan.positions`; video: (blocks d)
    series: name → values along the clip, NaN where there are none: `clipsim` and its control (p,), `probe …` (t,),
    `flicker`, `static_frac`, `warp`, `matched_frac`, `motion` (t−1,), `sharpness` (t,)
    seams: one per level but the deepest, empty where the windows are not known
    scenes: as the probe read them, and prompts, one per frame; both empty without a probe or prompts
    """

    name: str
    image: Floats | None
    video: Floats | None
    series: Mapping[str, Floats]
    seams: tuple[Seams, ...]
    scenes: tuple[Scene, ...] = ()
    prompts: tuple[str, ...] = ()


def spread_positions(frames: int, count: int) -> NDArray[np.int64]:
    """Numbers of `count` frames evenly spread over a clip, first and last included; all of them if it has no more."""
    return np.unique(np.linspace(0, frames - 1, min(count, frames)).round().astype(np.int64))


def measure(clip: Clip, others: Sequence[str], networks: Networks, plan: Plan) -> ClipMeasures:
    """Take all measures of one clip.

    others: the prompts of another clip, for the control; none where it has none
    """
    sampled = [_unit(clip.frames[part]) for part in batches(plan.positions)]
    series: dict[str, Floats] = {}
    if networks.clip is not None and clip.prompts:
        embedded = torch.cat([networks.clip.embed_images(part) for part in sampled])
        for name, prompts in (("clipsim", clip.prompts), ("clipsim control", others)):
            if prompts:
                texts = networks.clip.embed_prompts([prompts[at] for at in plan.positions])
                series[name] = clipsim(embedded, texts).double().numpy()
    series |= _of_pixels(clip, plan)
    series |= _of_probes(clip, others, networks.probes)
    probe = networks.scenes if clip.prompts else None
    return ClipMeasures(
        name=f"{clip.source.path.name}#{clip.part}",
        image=None if networks.image is None else _features(networks.image, sampled),
        video=None if networks.video is None else _features(networks.video, blocks(clip.frames, plan.block)),
        series=series,
        seams=() if plan.windows is None else tuple(seams(clip.frames, *plan.windows, clip.prompts or None)),
        scenes=() if probe is None else read_scenes(clip.frames, clip.prompts, probe),
        prompts=() if probe is None else clip.prompts,
    )


def batches(positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The positions, BATCH at a time."""
    return (positions[start : start + BATCH] for start in range(0, len(positions), BATCH))


def blocks(frames: NDArray[np.uint8], block: int) -> Iterator[torch.Tensor]:
    """Whole blocks of frames (t h w 3), each (1 3 block h w) in [−1, 1]; frames past the last one are left out."""
    for start in range(0, len(frames) - block + 1, block):
        yield rearrange(_unit(frames[start : start + block]), "t c h w -> 1 c t h w")


def _unit(frames: NDArray[np.uint8]) -> torch.Tensor:
    """(n h w 3) uint8 → (n 3 h w) in [−1, 1]."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1.0, "n h w c -> n c h w")


def _features(network: ImageFeatures | VideoFeatures, inputs: Iterable[torch.Tensor]) -> Floats:
    return torch.cat([network(batch) for batch in inputs]).double().cpu().numpy()


def _of_pixels(clip: Clip, plan: Plan) -> dict[str, Floats]:
    series: dict[str, Floats] = {}
    if "sharpness" in plan.metrics:
        series["sharpness"] = gradient_energy(clip.frames)
    if plan.metrics & {"flicker", "warp"}:
        found = steps(clip.frames, plan.flow)
        series |= {entry.name: np.array([getattr(step, entry.name) for step in found]) for entry in fields(Step)}
    return series


def _of_probes(clip: Clip, others: Sequence[str], probes: Mapping[str, Probe]) -> dict[str, Floats]:
    series: dict[str, Floats] = {}
    for name, probe in probes.items() if clip.prompts else ():
        for title, prompts in ((f"probe {name}", clip.prompts), (f"probe {name} control", tuple(others))):
            if prompts:
                scores = np.asarray(probe(clip.frames, prompts), np.float64)
                if scores.shape != (len(clip.frames),):
                    raise NuwaError(f"probe {name} gave scores of shape {scores.shape} for {len(clip.frames)} frames")
                series[title] = scores
    return series
