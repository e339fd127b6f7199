"""Runs: the long sequences training reads. Contiguous presentation time of one video, broken only by stated reasons."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from curation.config import AxisRule, RunConfig
from curation.records import Row
from curation.video import num_samples

LARGEST_GAP_S = 1e-3


@dataclass(frozen=True)
class RunPlan:
    """One run before it is written: clips in order of time, their spans in seconds, why it begins and ends there."""

    run_id: str
    video_id: str
    source_uri: str
    clip_ids: list[str]
    spans: list[tuple[float, float]]
    run_break_reasons: list[str]

    @property
    def file_name(self) -> str:
        """Place of the file in the dataset; the name changes with the content and with how it is written."""
        return f"media/runs/{self.run_id}.mp4"


def plan_runs(clips: Iterable[Row], config: RunConfig) -> list[RunPlan]:
    """Runs of any number of videos, from rows of `clips` after selection; too short or rejected ones are left out."""
    ordered = sorted(clips, key=lambda clip: (clip["video_id"], clip["clip_index"]))
    plans = []
    for _, of_video in groupby(ordered, key=lambda clip: clip["video_id"]):
        for stretch, reasons in stretches(list(of_video), config.break_reasons):
            num_frames = num_samples(stretch[0]["start_s"], stretch[-1]["end_s"], config.train_fps)
            if num_frames >= config.min_frames and not mean_failures(stretch, config.mean_rules):
                plans.append(_plan(stretch, reasons, config))
    return plans


def stretches(clips: Sequence[Row], break_reasons: Sequence[str]) -> list[tuple[list[Row], list[str]]]:
    """Cut the clips of one video, in order of time, where one has a breaking reason or time is missing between two.

    Returns each stretch with two reasons: why it begins and why it ends (start and end are the video's own).
    """
    found: list[tuple[list[Row], list[str]]] = []
    current: list[Row] = []
    begin = "start"
    for clip in clips:
        breaking = [reason for reason in clip["filter_reasons"] or [] if reason in break_reasons]
        gap = bool(current) and abs(clip["start_s"] - current[-1]["end_s"]) > LARGEST_GAP_S
        if current and (breaking or gap):
            reason = breaking[0] if breaking else "undecodable"
            found.append((current, [begin, reason]))
            current, begin = [], reason
        if breaking:
            begin = breaking[0]
        else:
            current.append(clip)
    if current:
        found.append((current, [begin, "end"]))
    return found


def mean_failures(clips: Sequence[Row], rules: Sequence[AxisRule]) -> list[str]:
    """Axes whose duration-weighted mean over the clips that have the score is out of bounds, or that no clip has."""
    return [rule.axis for rule in rules if not _within(_weighted_mean(clips, rule.axis), rule)]


def _within(mean: float | None, rule: AxisRule) -> bool:
    if mean is None:
        return False
    return (rule.minimum is None or mean >= rule.minimum) and (rule.maximum is None or mean <= rule.maximum)


def _weighted_mean(clips: Sequence[Row], axis: str) -> float | None:
    scored = [(clip[axis], clip["duration_s"]) for clip in clips if clip[axis] is not None]
    total = sum(duration for _, duration in scored)
    return sum(score * duration for score, duration in scored) / total if total > 0 else None


def _plan(clips: Sequence[Row], reasons: list[str], config: RunConfig) -> RunPlan:
    first, last = clips[0], clips[-1]
    content: list[Any] = [first["source_sha256"], first["start_pts"], last["end_pts"], config.train_fps]
    content += [config.height, config.width, config.gop_frames, config.crf]
    return RunPlan(
        run_id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        video_id=first["video_id"],
        source_uri=first["source_uri"],
        clip_ids=[clip["clip_id"] for clip in clips],
        spans=[(clip["start_s"], clip["end_s"]) for clip in clips],
        run_break_reasons=reasons,
    )


def run_row(plan: RunPlan, num_frames: int, firsts: Sequence[int], config: RunConfig) -> Row:
    """The row of `runs` of a written file; `firsts` are the frames of the file at which the clips begin.

    Clips that own no frame of the file (shorter than a frame lasts) are left out.
    """
    ends = [*firsts[1:], num_frames]
    owned = [i for i, (first, end) in enumerate(zip(firsts, ends, strict=True)) if end > first]
    return {
        "run_id": plan.run_id,
        "video_id": plan.video_id,
        "file_name": plan.file_name,
        "num_frames": num_frames,
        "train_fps": config.train_fps,
        "width": config.width,
        "height": config.height,
        "clip_ids": [plan.clip_ids[i] for i in owned],
        "first_frame_of_clip": [firsts[i] for i in owned],
        "run_break_reasons": plan.run_break_reasons,
    }
