"""What each threshold removes, as a section of the page: the funnel in SVD's order, how many clips only this threshold
rejects, and the clips nearest to it on either side.
"""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd

from curation.config import SelectConfig
from curation.page import Section
from curation.report_clips import caption, place, reasons_of, sheet, short_name
from curation.stages.select import Threshold, explain, scores_of
from curation.stages.select import thresholds as thresholds_of

NEAREST = 3
"""Clips shown on each side of a threshold."""


def thresholds(clips: pd.DataFrame, select: SelectConfig) -> Section:
    """One card with the funnel, one with the counts, and one per threshold with the clips on both sides of it."""
    found, table = thresholds_of(clips, select), explain(clips, select)
    note = (
        f"One threshold after another, in the order of Stable Video Diffusion's paper. “Only” counts clips that "
        f"nothing else rejects: they come back when that threshold goes. Below, the {NEAREST} clips nearest to each "
        f"threshold on either side, scores rising from left to right."
    )
    if not found:
        return Section("thresholds", "Thresholds", note, '<div class="card"><p>No rule is in force.</p></div>')
    counts = f'<div class="halves">{_funnel(found, table, len(clips))}{_table(found, table, len(clips))}</div>'
    cards = "".join(_card(clips, one, alone) for one, alone in zip(found, table["alone"], strict=True))
    return Section("thresholds", "Thresholds", note, counts + cards)


def _name(one: Threshold) -> str:
    return "duplicates" if one.axis is None else short_name(one.axis)


def _funnel(found: list[Threshold], table: pd.DataFrame, total: int) -> str:
    """Bars of the clips that are left, the part that went at this step in red."""
    rows = [("all clips", "", total, 0)]
    before = total
    for one, left in zip(found, table["left"], strict=True):
        rows.append((_name(one), one.rule, int(left), before - int(left)))
        before = int(left)
    cells = "".join(
        f'<span>{escape(name)} <small>{escape(rule)}</small></span><div class="track split">'
        f'<i class="good" style="{_width(left, total)}"></i><i class="bad" style="{_width(gone, total)}"></i></div>'
        f"<b>{left:,}</b>"
        for name, rule, left, gone in rows
    )
    return f'<div class="card"><h3>One after another</h3><div class="rows">{cells}</div></div>'


def _width(count: int, most: int) -> str:
    return f"width:{100 * count / most:.1f}%" if count else "display:none"


def _table(found: list[Threshold], table: pd.DataFrame, total: int) -> str:
    rows = "".join(
        f"<tr><td>{escape(_name(one))} <small>{escape(one.rule)}</small></td>"
        f"<td class='figure'>{_score(one.value)}</td><td class='figure'>{row['removes']:,}</td>"
        f"<td class='figure'>{_share(row['removes'], total)}</td><td class='figure'>{row['alone']:,}</td></tr>"
        for one, row in zip(found, table.to_dict("records"), strict=True)
    )
    names = ("cuts at", "removes", "share", "only it")
    head = "<th>kept when</th>" + "".join(f"<th class='figure'>{name}</th>" for name in names)
    return f'<div class="card"><h3>Each on its own</h3><table class="even"><tr>{head}</tr>{rows}</table></div>'


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else ""


def _card(clips: pd.DataFrame, one: Threshold, alone: int) -> str:
    """The clips nearest to a threshold: rejected on its one side, let through on the other."""
    if one.axis is None or one.value is None:
        return ""
    scores = scores_of(clips, one.axis)
    sides = [
        _side(clips, scores, _nearest(clips, scores, side, one.value), one, passed)
        for side, passed in ((one.failed, False), (~one.failed & ~np.isnan(scores), True))
    ]
    line = f'<div class="line"><b>{_score(one.value)}</b></div>'
    removed = f"rejects {int(one.failed.sum()):,} of {len(clips):,} clips, {alone:,} that nothing else rejects"
    return (
        f'<div class="card edge"><div class="head"><b>{escape(_name(one))}: {escape(one.rule)}</b>'
        f"<span>{removed}</span></div>"
        f'<div class="sides">{line.join(sides if one.is_minimum else sides[::-1])}</div></div>'
    )


def _nearest(clips: pd.DataFrame, scores: np.ndarray, side: np.ndarray, value: float) -> list[int]:
    """Rows of one side of a threshold nearest to it, by rising score; equal ones by clip_id."""
    rows = np.flatnonzero(side)
    ids = clips["clip_id"].to_numpy(dtype=str)
    nearest = rows[np.lexsort((ids[rows], np.abs(scores[rows] - value)))][:NEAREST]
    return list(nearest[np.lexsort((ids[nearest], scores[nearest]))])


def _side(clips: pd.DataFrame, scores: np.ndarray, rows: list[int], one: Threshold, passed: bool) -> str:
    kind, word = ("good", "let through") if passed else ("bad", "rejected")
    examples = "".join(_example(clips.iloc[row], float(scores[row]), one) for row in rows)
    return f'<div class="side {kind}">{examples or f"<p>no clip is {word} by this</p>"}</div>'


def _example(row: pd.Series, score: float, one: Threshold) -> str:
    others = [reason for reason in reasons_of(row) if reason != one.reason]
    also = f"<em>also {escape(', '.join(others))}</em>" if others else ""
    return (
        f'<figure title="{place(row)}">{sheet(row)}<figcaption><b>{score:.4g}</b> {caption(row)}{also}'
        "</figcaption></figure>"
    )
