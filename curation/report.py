"""What curation did to the footage, as sections of a page: funnel, reasons, errors, scores, clips kept and rejected."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from pathlib import PurePath

import numpy as np
import pandas as pd

from curation.charts import Bound, histogram
from curation.config import AxisRule, SelectConfig
from curation.dataset import Dataset
from curation.page import Section
from curation.report_clips import FRAMES, SCORES, card
from curation.report_duplicates import duplicates
from curation.report_files import clip_files
from curation.report_thresholds import thresholds
from curation.stages.select import bounds, scores_of


def headline(dataset: Dataset) -> list[tuple[str, str]]:
    """Figures for the top of the page: (figure, what it counts)."""
    videos, clips, runs = dataset.videos, dataset.clips, dataset.runs
    minutes = float((runs["num_frames"] / runs["train_fps"]).sum()) / 60 if len(runs) else 0.0
    return [
        (f"{len(videos):,}", "videos"),
        (f"{len(clips):,}", "clips"),
        (f"{int(_kept(clips).sum()):,}", "clips kept"),
        (f"{len(runs):,}", "runs for training"),
        (f"{minutes:.1f}", "minutes of runs"),
    ]


def sections(dataset: Dataset, most_clips: int = 24) -> list[Section]:
    """The report of a dataset; at most `most_clips` clips of each kind are shown, spread evenly over the table."""
    clips, config = dataset.clips, dataset.config
    parts = [_funnel(dataset), _histograms(clips, config.select)]
    parts += [thresholds(clips, config.select), duplicates(clips, config.dedup)]
    return [*parts, *clip_files(clips), _gallery(clips, most_clips)]


def bound_lines(rule: AxisRule, scores: np.ndarray) -> list[Bound]:
    """The thresholds of `rule` for `scores`, (n,), NaN where not measured; a share becomes the score it cuts at."""
    low, high = bounds(scores, dataclasses.replace(rule, minimum=None, maximum=None))
    found = []
    if rule.minimum is not None:
        found.append(Bound(rule.minimum, True, f"min {rule.minimum:g}"))
    if rule.maximum is not None:
        found.append(Bound(rule.maximum, False, f"max {rule.maximum:g}"))
    if rule.drop_lowest_frac and math.isfinite(low):
        found.append(Bound(low, True, f"lowest {rule.drop_lowest_frac:.0%}: {low:.3g}"))
    if rule.drop_highest_frac and math.isfinite(high):
        found.append(Bound(high, False, f"highest {rule.drop_highest_frac:.0%}: {high:.3g}"))
    return found


def _kept(clips: pd.DataFrame) -> pd.Series:
    return clips["keep"].fillna(False).astype(bool)


def _funnel(dataset: Dataset) -> Section:
    videos, clips, runs = dataset.videos, dataset.clips, dataset.runs
    in_runs = {clip for ids in runs["clip_ids"] for clip in ids}
    steps = [
        ("videos found", len(videos), ""),
        ("videos decoded", int((videos["status"] == "ok").sum()), ""),
        ("clips cut", len(clips), ""),
        ("clips kept", int(_kept(clips).sum()), "good"),
        ("clips in runs", len(in_runs), ""),
    ]
    statuses = [(str(name), int(count), "") for name, count in videos["status"].value_counts().items()]
    reasons = clips["filter_reasons"].explode().dropna().value_counts()
    rejections = [(str(name), int(count), "bad") for name, count in reasons.items()]
    cards = [
        ("From footage to training clips", _bars(steps)),
        ("Why clips were rejected", _bars(rejections) or "<p>No clip was.</p>"),
        ("How every video ended", _bars(statuses)),
        ("Errors", _errors(dataset.errors)),
    ]
    body = "".join(f'<div class="card"><h3>{title}</h3>{content}</div>' for title, content in cards)
    note = (
        "Every input ends in one status; every rejected clip keeps all its reasons. "
        "Runs are unbroken stretches of one video, so they take in rejected clips that lie between kept ones."
    )
    return Section("funnel", "Funnel", note, f'<div class="halves">{body}</div>')


def _bars(rows: Sequence[tuple[str, int, str]]) -> str:
    """(name, count, colour) as bars; the first row or the largest is the full width."""
    if not rows:
        return ""
    most = max(max(count for _, count, _ in rows), 1)
    cells = "".join(
        f'<span>{escape(name)}</span><div class="track"><i class="{kind}" style="{_width(count, most)}"></i>'
        f"</div><b>{count:,}</b>"
        for name, count, kind in rows
    )
    return f'<div class="rows">{cells}</div>'


def _width(count: int, most: int) -> str:
    return f"width:{100 * count / most:.1f}%" if count else "display:none"


def _errors(errors: pd.DataFrame, most: int = 40) -> str:
    if errors.empty:
        return "<p>No file failed.</p>"
    rows = "".join(
        f"<tr><td>{escape(PurePath(str(row.source_uri)).name)}</td><td>{escape(str(row.stage))}</td>"
        f"<td>{escape(str(row.error_message))}</td></tr>"
        for row in errors.head(most).itertuples()
    )
    more = f"<p>… and {len(errors) - most} more</p>" if len(errors) > most else ""
    return f"<table><tr><th>file</th><th>stage</th><th>message</th></tr>{rows}</table>{more}"


def _histograms(clips: pd.DataFrame, select: SelectConfig) -> Section:
    shown = dict(SCORES) | {rule.axis: rule.axis for rule in select.rules if rule.axis not in SCORES}
    charts = []
    for axis, name in shown.items():
        if axis in clips:
            scores = scores_of(clips, axis)
            lines = [line for rule in select.rules if rule.axis == axis for line in bound_lines(rule, scores)]
            charts.append(f'<div class="card">{histogram(scores, lines, name)}</div>')
    note = "All clips, whether kept or not. Dashed lines are the thresholds in force; red is what they reject."
    return Section("scores", "Scores", note, f'<div class="grid">{"".join(charts)}</div>')


def _gallery(clips: pd.DataFrame, most: int) -> Section:
    kept = _kept(clips)
    halves = "".join(
        f'<div><div class="head"><i class="dot {kind}"></i><b>{title}</b><span>{len(rows):,} clips, '
        f"{min(most, len(rows))} shown</span></div>"
        f'<div class="clips">{"".join(card(row) for row in _spread(rows, most))}</div></div>'
        for title, kind, rows in (("Kept", "", clips[kept]), ("Rejected", "bad", clips[~kept]))
    )
    note = f"{FRAMES} frames of each clip in order, its caption, its scores, and the rules it failed."
    return Section("clips", "Clips", note, f'<div class="halves">{halves}</div>')


def _spread(rows: pd.DataFrame, most: int) -> list[pd.Series]:
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    return [rows.iloc[place] for place in dict.fromkeys(places)]
