"""Runs: where they break, what they are called, which clip owns which frame."""

from typing import Any

import pytest

from curation.config import AxisRule, RunConfig
from curation.runs import plan_runs, run_row, stretches


def clip(index: int, start_s: float, end_s: float, reasons: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    known = {"video_id": "v", "source_uri": "/v.mp4", "source_sha256": "a" * 64, "clip_id": f"c{index}"}
    span = {"start_s": start_s, "end_s": end_s, "duration_s": end_s - start_s}
    pts = {"start_pts": round(start_s * 1000), "end_pts": round(end_s * 1000)}
    return {"clip_index": index, "filter_reasons": list(reasons), **known, **span, **pts, **more}


def test_only_break_reasons_and_missing_time_break() -> None:
    clips = [
        clip(0, 0, 5),
        clip(1, 5, 10, ("motion_score",)),
        clip(2, 10, 12, ("duplicate", "motion_score")),
        clip(3, 12, 20),
        clip(4, 21, 30),
    ]
    found = [([c["clip_index"] for c in some], why) for some, why in stretches(clips, ("undecodable", "duplicate"))]
    assert found == [
        ([0, 1], ["start", "duplicate"]),
        ([3], ["duplicate", "undecodable"]),
        ([4], ["undecodable", "end"]),
    ]


def test_order_of_rows_does_not_matter_and_short_runs_are_left_out() -> None:
    clips = [clip(1, 5, 10), clip(0, 0, 5), clip(0, 0, 1.8, video_id="w", clip_id="w0")]
    (plan,) = plan_runs(clips, RunConfig(train_fps=8.0, min_frames=16))
    assert plan.clip_ids == ["c0", "c1"]
    assert plan.spans == [(0, 5), (5, 10)]


def test_identity_follows_content_and_encoding() -> None:
    clips = [clip(0, 0, 5)]
    configs = (RunConfig(), RunConfig(height=64), RunConfig(train_fps=4.0))
    ids = {plan_runs(clips, config)[0].run_id for config in configs}
    assert len(ids) == 3
    moved = [{**clips[0], "source_uri": "/elsewhere.mp4"}]
    assert plan_runs(moved, RunConfig())[0].run_id == plan_runs(clips, RunConfig())[0].run_id


def test_other_axes_are_judged_on_the_mean() -> None:
    clips = [clip(0, 0, 9, motion_score=0.1), clip(1, 9, 10, motion_score=1.0), clip(2, 10, 12, motion_score=None)]
    for minimum, runs in ((0.18, 1), (0.2, 0)):  # mean 0.9 * 0.1 + 0.1 * 1.0 = 0.19
        rules = (AxisRule(axis="motion_score", minimum=minimum),)
        assert len(plan_runs(clips, RunConfig(mean_rules=rules))) == runs


def test_clips_shorter_than_a_frame_own_none() -> None:
    clips = [clip(0, 0, 3.01), clip(1, 3.01, 3.02), clip(2, 3.02, 6)]
    row = run_row(plan_runs(clips, RunConfig())[0], 48, [0, 25, 25], RunConfig())
    assert row["clip_ids"] == ["c0", "c2"]
    assert row["first_frame_of_clip"] == [0, 25]


@pytest.mark.parametrize("reasons", [None, []])
def test_clips_without_decision_do_not_break(reasons: list[str] | None) -> None:
    clips = [{**clip(0, 0, 5), "filter_reasons": reasons}, clip(1, 5, 9)]
    assert len(plan_runs(clips, RunConfig())) == 1
