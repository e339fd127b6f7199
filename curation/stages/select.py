"""Selection: scores in, (keep, reasons) out; applied after everything is measured, and again whenever
thresholds change.

Every rule is checked, so a rejected clip carries all its reasons; the names are made from the axis:
`low_motion_score`, `high_ocr_area_ratio`, `no_aesthetic_score` (not measured), `duplicate`.
`explain` counts what each threshold removes, alone and in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from curation.config import AxisRule, SelectConfig
from curation.config_error import CurationError

DUPLICATE = "duplicate"
SVD_ORDER = ("motion_score", "aesthetic_score", "clip_similarity", "ocr_area_ratio")
"""Axes in the order in which SVD's paper names its thresholds (Sec. 3); duplicates and other axes come before them."""


@dataclass(frozen=True)
class Threshold:
    """One way to fail, on its own: a bound of a rule, a missing score, or being a duplicate."""

    reason: str
    rule: str
    """In words, e.g. at least 0.0075."""
    axis: str | None
    """Column of scores; None for duplicates."""
    value: float | None
    """The score at the bound, itself let through; None for duplicates and missing scores."""
    is_minimum: bool
    failed: npt.NDArray[np.bool_]
    """(n,) which clips it rejects."""


def select(clips: pd.DataFrame, config: SelectConfig) -> tuple[np.ndarray, list[list[str]]]:
    """Apply the rules to a table of clips.

    Returns:
        keep: (n,) bool.
        reasons: for each clip every failed rule, in the order of the rules; empty exactly where keep.

    Raises:
        CurationError: a rule names a column the table lacks.
    """
    failures: dict[str, np.ndarray] = {}
    if config.drop_duplicates and "dup_of" in clips:
        failures[DUPLICATE] = clips["dup_of"].notna().to_numpy()
    for rule in config.rules:
        for reason, failed in axis_failures(clips, rule).items():
            failures[reason] = failures.get(reason, False) | failed
    table = np.array(list(failures.values()), dtype=bool).reshape(len(failures), len(clips))
    names = np.array(list(failures), dtype=object)
    reasons = [names[column].tolist() for column in table.T]
    return np.logical_not(table.any(axis=0)), reasons


def check_axes(rules: Iterable[AxisRule], clips: pa.Schema) -> None:
    """Raise CurationError for the first rule whose axis is no column of numbers: before measuring, not after it."""
    kinds = {column.name: column.type for column in clips}
    numbers = [name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
    for rule in rules:
        if rule.axis not in numbers:
            raise CurationError(f"rule on {rule.axis!r}: clips has no such column of numbers, use {', '.join(numbers)}")


def thresholds(clips: pd.DataFrame, config: SelectConfig) -> list[Threshold]:
    """Every threshold of `config` by itself, in SVD's order; a clip is kept exactly where none of them fails it."""
    found = []
    if config.drop_duplicates and "dup_of" in clips:
        copies = clips["dup_of"].notna().to_numpy()
        found.append(Threshold(DUPLICATE, "no copy of a better clip", None, None, True, copies))
    places = {axis: place for place, axis in enumerate(SVD_ORDER, start=1)}
    missing: set[str] = set()
    for rule in sorted(config.rules, key=lambda rule: places.get(rule.axis, 0)):
        scores = scores_of(clips, rule.axis)
        if rule.axis not in missing and np.isnan(scores).any():
            found.append(Threshold(f"no_{rule.axis}", "measured", rule.axis, None, True, np.isnan(scores)))
        missing.add(rule.axis)
        found += _thresholds_of(scores, rule)
    return found


def _thresholds_of(scores: np.ndarray, rule: AxisRule) -> list[Threshold]:
    """The bounds of one rule, up to four, each as if it were alone."""
    low_share, high_share = rule.drop_lowest_frac, rule.drop_highest_frac
    parts = []
    if rule.minimum is not None:
        parts.append((AxisRule(axis=rule.axis, minimum=rule.minimum), f"at least {rule.minimum:g}"))
    if low_share:
        part = AxisRule(axis=rule.axis, drop_lowest_frac=low_share)
        parts.append((part, f"not the lowest {100 * low_share:.3g} %"))
    if rule.maximum is not None:
        parts.append((AxisRule(axis=rule.axis, maximum=rule.maximum), f"at most {rule.maximum:g}"))
    if high_share:
        part = AxisRule(axis=rule.axis, drop_highest_frac=high_share)
        parts.append((part, f"not the highest {100 * high_share:.3g} %"))
    return [_threshold(scores, part, words) for part, words in parts]


def _threshold(scores: np.ndarray, rule: AxisRule, words: str) -> Threshold:
    """The one bound of `rule`, said in `words`."""
    is_minimum = rule.minimum is not None or rule.drop_lowest_frac > 0
    low, high = bounds(scores, rule)
    bound, failed = (low, scores < low) if is_minimum else (high, scores > high)
    absolute = rule.minimum if is_minimum else rule.maximum
    value = absolute if absolute is not None else bound if np.isfinite(bound) else None
    return Threshold(f"{'low' if is_minimum else 'high'}_{rule.axis}", words, rule.axis, value, is_minimum, failed)


def explain(clips: pd.DataFrame, config: SelectConfig) -> pd.DataFrame:
    """What each threshold removes: one row per threshold, in SVD's order.

    Columns: reason; rule, in words; threshold, the score at the bound; removes, clips it rejects; alone, those that
    nothing else rejects; left, clips left when the thresholds are applied one after another.
    """
    found = thresholds(clips, config)
    failed = np.array([threshold.failed for threshold in found], dtype=bool).reshape(len(found), len(clips))
    ways = failed.sum(axis=0)
    return pd.DataFrame(
        {
            "reason": [threshold.reason for threshold in found],
            "rule": [threshold.rule for threshold in found],
            "threshold": np.array([threshold.value for threshold in found], dtype=np.float64),
            "removes": failed.sum(axis=1),
            "alone": (failed & (ways == 1)).sum(axis=1),
            "left": (~np.logical_or.accumulate(failed, axis=0)).sum(axis=1) if len(found) else np.zeros(0, dtype=int),
        }
    )


def check_reasons(reasons: Iterable[str], clips: pa.Schema) -> None:
    """Raise CurationError for the first name that no clip can ever have among its reasons."""
    possible = {DUPLICATE, "undecodable"}
    possible |= {f"{side}_{column.name}" for column in clips for side in ("no", "low", "high")}
    for reason in reasons:
        if reason not in possible:
            raise CurationError(
                f"break_reasons: no clip has the reason {reason!r}: use {DUPLICATE}, undecodable, or a column of "
                "clips after no_, low_ or high_, as in low_motion_score"
            )


def axis_failures(clips: pd.DataFrame, rule: AxisRule) -> dict[str, np.ndarray]:
    """Which clips fail `rule`, by reason: no_AXIS, low_AXIS, high_AXIS, each (n,) bool."""
    scores = scores_of(clips, rule.axis)
    low, high = bounds(scores, rule)
    return {
        f"no_{rule.axis}": np.isnan(scores),
        f"low_{rule.axis}": scores < low,
        f"high_{rule.axis}": scores > high,
    }


def scores_of(clips: pd.DataFrame, axis: str) -> np.ndarray:
    """(n,) a column of numbers in the precision it is stored in, float32 or float64; NaN where not measured.

    Raises:
        CurationError: the table lacks the column.
    """
    if axis not in clips:
        raise CurationError(
            f"selection rule on {axis!r}: no such column, use one of {', '.join(map(str, clips.columns))}"
        )
    column = pd.to_numeric(clips[axis])
    single = str(column.dtype).lower() in ("float16", "float32", "float[pyarrow]", "halffloat[pyarrow]")
    return column.to_numpy(dtype=np.float32 if single else np.float64, na_value=np.nan)


def bounds(scores: np.ndarray, rule: AxisRule) -> tuple[float, float]:
    """The interval of scores, both ends included, that `rule` lets through: the tighter of its absolute and
    percentile forms. Absolute ones count in the precision of `scores`: a score stored as 0.07 is no higher than 0.07.

    `drop_lowest_frac` drops that share of the measured clips, rounded down, and none that ties with the
    lowest clip kept; so equal scores always meet the same fate. `drop_highest_frac` is its mirror image.
    """
    measured = np.sort(scores[~np.isnan(scores)])
    low = -np.inf if rule.minimum is None else float(scores.dtype.type(rule.minimum))
    high = np.inf if rule.maximum is None else float(scores.dtype.type(rule.maximum))
    if measured.size:
        low = max(low, measured[_share(rule.drop_lowest_frac, measured.size)])
        high = min(high, measured[::-1][_share(rule.drop_highest_frac, measured.size)])
    return float(low), float(high)


def _share(fraction: float, count: int) -> int:
    """`fraction` of `count`, rounded down; exact in the decimals as written: 0.29 of 100 is 29, not 28."""
    return int(Fraction(repr(float(fraction))) * count)
