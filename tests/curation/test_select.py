"""Tables of scores in, reasons out."""

import numpy as np
import pandas as pd
import pytest

from curation.config import AxisRule, CurationError, SelectConfig
from curation.profiles import svd
from curation.stages.select import bounds, select


def clips(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_all_failing_reasons_are_listed_in_order() -> None:
    rules = (AxisRule(axis="motion_score", minimum=0.1), AxisRule(axis="ocr_area_ratio", maximum=0.07))
    table = clips(motion_score=[0.2, 0.0, 0.0, None], ocr_area_ratio=[0.01, 0.01, 0.5, 0.5])
    keep, reasons = select(table, SelectConfig(rules=rules))
    assert keep.tolist() == [True, False, False, False]
    assert reasons == [
        [],
        ["low_motion_score"],
        ["low_motion_score", "high_ocr_area_ratio"],
        ["no_motion_score", "high_ocr_area_ratio"],
    ]


def test_bounds_themselves_are_inside() -> None:
    rule = AxisRule(axis="x", minimum=1.0, maximum=2.0)
    keep, _ = select(clips(x=[1.0, 2.0, np.nextafter(2.0, 3.0)]), SelectConfig(rules=(rule,)))
    assert keep.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("scores", "fraction", "kept"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0.25, [2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0, 4.0], 0.5, [3.0, 4.0]),
        ([1.0, 2.0, 3.0], 0.25, [1.0, 2.0, 3.0]),  # a quarter of three clips is none
        ([1.0, 1.0, 1.0, 1.0], 0.5, [1.0, 1.0, 1.0, 1.0]),  # ties share their fate
        ([5.0], 0.9, [5.0]),
    ],
)
def test_lowest_fraction_is_dropped(scores: list[float], fraction: float, kept: list[float]) -> None:
    rule = AxisRule(axis="x", drop_lowest_frac=fraction)
    keep, _ = select(clips(x=scores), SelectConfig(rules=(rule,)))
    assert [score for score, kept_ in zip(scores, keep, strict=True) if kept_] == kept
    mirrored = AxisRule(axis="x", drop_highest_frac=fraction)
    keep, _ = select(clips(x=[-score for score in scores]), SelectConfig(rules=(mirrored,)))
    assert [score for score, kept_ in zip(scores, keep, strict=True) if kept_] == kept


def test_fractions_are_taken_over_measured_clips_and_the_tighter_bound_holds() -> None:
    scores = np.array([np.nan, 1.0, 2.0, 3.0, 4.0])
    assert bounds(scores, AxisRule(axis="x", drop_lowest_frac=0.25)) == (2.0, 4.0)
    assert bounds(scores, AxisRule(axis="x", drop_lowest_frac=0.25, minimum=3.5, maximum=9.0)) == (3.5, 4.0)


def test_duplicates_fail_by_name_unless_wanted() -> None:
    table = clips(dup_of=[None, "a"], x=[1.0, 1.0])
    assert select(table, SelectConfig())[1] == [[], ["duplicate"]]
    assert select(table, SelectConfig(drop_duplicates=False))[0].all()


def test_a_clip_too_short_is_a_row_with_a_reason() -> None:
    columns = {rule.axis: [1.0] for rule in svd().select.rules} | {"duration_s": [0.2], "ocr_area_ratio": [0.0]}
    assert select(clips(**columns), svd().select)[1] == [["low_duration_s"]]


def test_empty_table_and_unknown_axis() -> None:
    rule = AxisRule(axis="x", minimum=0.0)
    keep, reasons = select(pd.DataFrame({"x": pd.Series(dtype="float32")}), SelectConfig(rules=(rule,)))
    assert keep.shape == (0,)
    assert reasons == []
    with pytest.raises(CurationError, match=r"'x'.*use one of y"):
        select(clips(y=[1.0]), SelectConfig(rules=(rule,)))


def test_same_table_same_answer_in_any_order() -> None:
    rng = np.random.default_rng(0)
    table = clips(x=rng.normal(size=101).tolist())
    order = rng.permutation(101)
    config = SelectConfig(rules=(AxisRule(axis="x", drop_lowest_frac=0.3),))
    assert (select(table, config)[0][order] == select(table.iloc[order], config)[0]).all()
