"""Which figures there are, what they are called, and the JSON that says everything about them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuwa.evaluate.bootstrap import Estimate
from nuwa.evaluate.clip_measures import Networks, Plan
from nuwa.evaluate.config import OF_BLOCKS, OF_FRAMES
from nuwa.evaluate.drift import block_times
from nuwa.evaluate.figures import (
    NO_TIME,
    Along,
    Comparison,
    Figure,
    Measured,
    Titles,
    distance_figure,
    frechet_distances,
    mmd_distances,
    seam_figures,
    series_figure,
)
from nuwa.evaluate.frechet import principal_directions
from nuwa.evaluate.probe_figures import probe_figures, titles_of
from nuwa.evaluate.scene_probe import SceneProbe
from nuwa.evaluate.seams import CHANGE_MARGIN
from nuwa.evaluate.sources import Footage

NOTHING_FOUND = {
    "flicker": "no pixel stands still in any generated video",
    "warp": "optical flow matches no pixel of any generated video with the next frame",
    "seams": f"every keyframe lies within {CHANGE_MARGIN} frames of a change of prompt, where the scene itself changes",
}
NO_SCENE = "no scene of the generated videos is long enough and has a prompt that asks for it"
SIGNIFICANT = 7
"""Digits of a number in the report: single precision has no more."""


def compute_figures(
    metrics: Sequence[str], sets: Comparison, networks: Networks, plan: Plan, feature_width: int | None
) -> list[Figure]:
    """All figures of these metrics, in the order of the report, then the probes."""
    found: list[Figure | None] = []
    for name in metrics:
        if name in (*OF_FRAMES, *OF_BLOCKS):
            found.append(_distance(name, sets, networks, plan, feature_width))
        elif name == "seams":
            titles = Titles("seams", "second difference at keyframes over elsewhere", "near 1", "pixels")
            found += seam_figures(titles, sets)
        else:
            found += _series(name, sets, networks, plan)
    for name in networks.probes:
        titles = Titles(f"probe_{name}", f"probe: {name}", "higher", "a callable from outside")
        found.append(series_figure(titles, f"probe {name}", sets, _by_blocks(plan)))
    if networks.scenes is not None:
        found += probe_figures(networks.scenes, sets)
    return [figure for figure in found if figure is not None and math.isfinite(figure.value.value)]


def not_found(
    metrics: Sequence[str], probes: Iterable[str], scenes: SceneProbe | None, figures: Sequence[Figure]
) -> dict[str, str]:
    """Metrics and probes that gave no figure although nothing stood against them, and why."""
    names = {figure.name for figure in figures}
    silent = [name for name in metrics if not names & {name, f"toy_{name}", f"{name}_level_0"}]
    reasons = {name: NOTHING_FOUND.get(name, "the videos hold nothing that it measures") for name in silent}
    asked = {f"probe_{name}" for name in probes}
    reasons |= dict.fromkeys(sorted(asked - names), "it found nothing to check in any generated video")
    of_scenes = [] if scenes is None else [name for name in titles_of(scenes) if name not in names]
    return reasons | dict.fromkeys(of_scenes, NO_SCENE)


def _by_blocks(plan: Plan) -> Along:
    return Along(block_times(plan.wanted.frames, plan.block, plan.wanted.fps), plan.block)


def _by_positions(plan: Plan) -> Along:
    return Along(plan.positions / plan.wanted.fps)


def _distance(name: str, sets: Comparison, networks: Networks, plan: Plan, feature_width: int | None) -> Figure:
    of_frames, pool, frechet = name in OF_FRAMES, name in ("fid", "fvd"), name not in ("avg_kid", "b_kvd")
    network = networks.image if of_frames else networks.video
    assert network is not None, "a metric without its network is left out"
    real, generated = (each.image() if of_frames else each.video() for each in (sets.real, sets.generated))
    judge = network.name
    if frechet and feature_width is not None and feature_width < network.width:
        directions = principal_directions(real.reshape(-1, network.width), feature_width)
        real, generated = directions(real), directions(generated)
        judge += f", first {feature_width} principal directions of the real set"
    if frechet:
        distances = frechet_distances(real, generated, pool)
        least = -(-(real.shape[-1] + 1) // (real.shape[1] if pool else 1))
    else:
        distances = mmd_distances(real, generated, sets.real.sources, sets.generated.sources)
        least = 2
    titles = Titles(*_titles(name, network.toy, plan.block), "lower", judge)
    at = _by_positions(plan) if of_frames else Along(_by_blocks(plan).times_s)
    return distance_figure(titles, distances, sets, NO_TIME if pool else at, least)


def _titles(name: str, toy: bool, block: int) -> tuple[str, str]:
    """Name and label; a figure of toy features says so in both."""
    label = {
        "avg_fid": "Avg-FID",
        "fid": "FID over all frames",
        "avg_kid": "Avg-KID (MMD²)",
        "b_fvd": f"B-FVD-{block}",
        "fvd": f"FVD-{block} over all blocks",
        "b_kvd": f"B-KVD-{block} (MMD²)",
    }[name]
    return (f"toy_{name}", f"toy {label}") if toy else (name, label)


def _series(name: str, sets: Comparison, networks: Networks, plan: Plan) -> list[Figure | None]:
    """Figures that are a mean along the clips."""
    flow = f"{plan.flow} flow of OpenCV"
    entries = {
        "clipsim": [("clipsim", "CLIPSIM", "higher", networks.clip.name if networks.clip else "")],
        "flicker": [
            ("flicker", "flicker in static regions, grey levels of 255", "near the real", flow),
            ("static_frac", "share of static pixels", "near the real", flow),
        ],
        "warp": [
            ("warp", "flow-warp error", "lower", flow),
            ("matched_frac", "share of pixels that flow can match", "near the real", flow),
            ("motion", "mean flow, frame heights per frame", "near the real", flow),
        ],
        "sharpness": [("sharpness", "gradient energy", "near the real", "pixels")],
    }[name]
    at = _by_positions(plan) if name == "clipsim" else _by_blocks(plan)
    return [series_figure(Titles(*entry), entry[0], sets, at) for entry in entries]


def figure_json(figure: Figure) -> dict[str, Any]:
    """A figure as JSON; what does not apply is null, never a number that is none."""
    found = {
        "label": figure.label,
        "better": figure.better,
        "judge": figure.judge,
        **_estimate(figure.value),
        "floor": None if figure.floor is None else _estimate(figure.floor),
        "at_the_counts_of_the_floor": _number(figure.same_counts),
        "control_with_prompts_of_another_video": None if figure.control is None else _estimate(figure.control),
        "chance": None if figure.chance is None else _estimate(figure.chance),
        "drift_per_s": None if figure.drift_per_s is None else _estimate(figure.drift_per_s),
        "floor_drift_per_s": None if figure.floor_drift_per_s is None else _estimate(figure.floor_drift_per_s),
        "counts": figure.counts,
    }
    if figure.along is not None and figure.times_s is not None:
        found["along"] = {"times_s": _numbers(figure.times_s), "values": _numbers(figure.along)}
    return found


def footage_json(
    footage: Footage, measured: Measured, skipped: Sequence[tuple[str, str]], too_short: Sequence[str]
) -> dict[str, Any]:
    """What one set consisted of; nothing that was found goes unmentioned."""
    return {
        "path": str(footage.path),
        "kind": footage.kind,
        "videos_found": len(footage.sources),
        "videos_judged": len(np.unique(measured.sources)),
        "clips": [clip.name for clip in measured.clips],
        "skipped": [{"video": video, "reason": reason} for video, reason in skipped],
        "too_short": list(too_short),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]
    return {"value": _number(estimate.value), "interval": None if interval is None else _numbers(np.array(interval))}


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{SIGNIFICANT}g}")


def _numbers(values: NDArray[np.floating]) -> list[float | None]:
    return [_number(float(value)) for value in values]
