"""Selection: scores in, (keep, reasons) out; applied after everything is measured, and again whenever
thresholds change.

Every rule is checked, so a rejected clip carries all its reasons; the names are made from the axis:
`low_motion_score`, `high_ocr_area_ratio`, `no_aesthetic_score` (not measured), `duplicate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa

from curation.config import AxisRule, CurationError, SelectConfig

DUPLICATE = "duplicate"


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
