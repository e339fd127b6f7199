"""Tables of scores in, reasons out."""

import itertools

import numpy as np
import pandas as pd
import pytest

from curation.config import AxisRule, SelectConfig
from curation.config_error import CurationError
from curation.profiles import svd
from curation.stages.select import bounds, explain, select, thresholds


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


# --- properties over random tables ------------------------------------------------------------------------------------


def random_table(seed: int, num: int = 200) -> pd.DataFrame:
    """Scores with many ties, holes and infinities, in single and double precision; some rows are duplicates."""
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=num).astype(np.float32)
    coarse = rng.integers(0, 5, num) / 4
    holes = np.where(rng.random(num) < 0.2, np.nan, rng.normal(size=num))
    ends = np.where(rng.random(num) < 0.05, np.inf, coarse)
    dup_of = np.where(rng.random(num) < 0.1, "other", None)
    return pd.DataFrame({"fine": fine, "coarse": coarse, "holes": holes, "ends": ends, "dup_of": dup_of})


def random_rules(seed: int) -> SelectConfig:
    """A rule per axis: an absolute threshold that some score equals, or a share, at either end."""
    rng = np.random.default_rng(seed)
    table = random_table(seed)
    rules = []
    for axis in ("fine", "coarse", "holes", "ends"):
        low, high = np.sort(rng.choice(table[axis][np.isfinite(table[axis])].to_numpy(), 2))
        shares = {"drop_lowest_frac": float(rng.choice([0, 0.1, 0.29, 0.5])), "drop_highest_frac": 0.07}
        rules.append(AxisRule(axis=axis, minimum=float(low), maximum=float(high)))
        rules.append(AxisRule(axis=axis, **shares))
    return SelectConfig(rules=tuple(rules))


@pytest.mark.parametrize("seed", range(8))
def test_selection_is_pure_and_blind_to_order(seed: int) -> None:
    table, config = random_table(seed), random_rules(seed)
    before = table.copy(deep=True)
    keep, reasons = select(table, config)
    pd.testing.assert_frame_equal(table, before)
    assert [not reason for reason in reasons] == keep.tolist()
    order = np.random.default_rng(seed).permutation(len(table))
    keep_again, reasons_again = select(table.iloc[order].set_axis(order[::-1]), config)
    assert keep_again.tolist() == keep[order].tolist()
    assert reasons_again == [reasons[row] for row in order]


@pytest.mark.parametrize("seed", range(8))
def test_reasons_are_those_of_each_rule_alone(seed: int) -> None:
    table, config = random_table(seed), random_rules(seed)
    alone = [select(table, SelectConfig(rules=(rule,), drop_duplicates=False))[1] for rule in config.rules]
    duplicate = [["duplicate"] if copy else [] for copy in table["dup_of"].notna()]
    for row, reasons in enumerate(select(table, config)[1]):
        expected = set(duplicate[row]).union(*(of_rule[row] for of_rule in alone))
        assert set(reasons) == expected
        assert len(reasons) == len(expected)


@pytest.mark.parametrize("seed", range(8))
def test_a_share_drops_at_most_itself_and_never_splits_a_tie(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, 97) / 8
    fraction = float(rng.choice([0.0, 0.01, 0.25, 0.5, 0.99]))
    for rule in (AxisRule(axis="x", drop_lowest_frac=fraction), AxisRule(axis="x", drop_highest_frac=fraction)):
        keep, _ = select(clips(x=scores.tolist()), SelectConfig(rules=(rule,)))
        assert (~keep).sum() <= fraction * len(scores)
        assert not set(scores[keep]) & set(scores[~keep])
        assert keep.any()


@pytest.mark.parametrize("seed", range(4))
def test_a_stricter_rule_keeps_no_more(seed: int) -> None:
    table = random_table(seed)
    kept = [
        select(table, SelectConfig(rules=(AxisRule(axis="fine", drop_lowest_frac=fraction),)))[0]
        for fraction in (0.0, 0.2, 0.5, 0.9)
    ]
    assert all((looser | ~stricter).all() for looser, stricter in itertools.pairwise(kept))


@pytest.mark.parametrize("dtype", ["float32", "float64", "Float32", "float[pyarrow]", object])
def test_a_threshold_equal_to_a_score_lets_it_pass_in_any_precision(dtype: str) -> None:
    scores = (0.07, 0.0075, 0.1)
    table = pd.DataFrame({"x": pd.Series(scores, dtype=dtype)})
    for bound in scores:
        rule = AxisRule(axis="x", minimum=bound, maximum=bound)
        assert select(table, SelectConfig(rules=(rule,)))[0].tolist() == [score == bound for score in scores]


@pytest.mark.parametrize(
    ("fraction", "num", "dropped"), [(0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7), (0.999, 3, 2), (0.0, 5, 0)]
)
def test_a_share_counts_in_decimals_as_written(fraction: float, num: int, dropped: int) -> None:
    keep, _ = select(clips(x=np.arange(num)), SelectConfig(rules=(AxisRule(axis="x", drop_lowest_frac=fraction),)))
    assert (~keep).sum() == dropped
    assert keep[dropped:].all()


@pytest.mark.parametrize("nothing", [[None, None], [np.nan, np.nan], pd.array([None, None], dtype="Float32")])
def test_an_axis_that_was_never_measured(nothing: object) -> None:
    rule = AxisRule(axis="x", minimum=0.0, drop_lowest_frac=0.5, drop_highest_frac=0.5)
    keep, reasons = select(pd.DataFrame({"x": nothing}), SelectConfig(rules=(rule,)))
    assert not keep.any()
    assert reasons == [["no_x"], ["no_x"]]


def test_without_rules_everything_is_kept() -> None:
    assert select(random_table(0), SelectConfig(drop_duplicates=False))[0].all()
    assert select(random_table(0).iloc[:0], random_rules(0))[0].shape == (0,)


def test_the_profile_svd_drops_the_shares_of_the_paper() -> None:
    """SVD Sec. 3: a quarter by motion, a quarter by aesthetics, half by caption similarity, text above 7 %."""
    scores = np.linspace(0, 1, 400)
    alike = np.full(400, 0.01)
    shares = {"motion_score": 0.25, "aesthetic_score": 0.25, "clip_similarity": 0.5, "ocr_area_ratio": 0.25}
    for axis, share in shares.items():
        columns = dict.fromkeys(shares, alike) | {axis: 0.06 * scores if axis == "ocr_area_ratio" else scores}
        keep, reasons = select(clips(duration_s=np.full(400, 3.0), **columns), svd().select)
        end = keep[::-1] if axis == "ocr_area_ratio" else keep
        assert end.tolist() == [False] * round(400 * share) + [True] * round(400 * (1 - share))
        word = "high" if axis == "ocr_area_ratio" else "low"
        assert {reason for reasons_ in reasons for reason in reasons_} == {f"{word}_{axis}"}
    columns = dict.fromkeys(shares, alike) | {"ocr_area_ratio": np.repeat([0.0, 0.0701], 200)}
    assert (
        select(clips(duration_s=np.full(400, 3.0), **columns), svd().select)[0].tolist() == [True] * 200 + [False] * 200
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"minimum": 2.0, "maximum": 1.0}, r"x.minimum = 2.0 must be at most x.maximum = 1.0"),
        ({"minimum": float("nan")}, "x.minimum = nan must be a finite number"),
        ({"maximum": float("inf")}, "x.maximum = inf"),
        ({"drop_lowest_frac": 1.0}, r"x.drop_lowest_frac = 1.0 must be in \[0, 1\)"),
        ({"drop_highest_frac": -0.1}, "x.drop_highest_frac"),
    ],
)
def test_rules_that_make_no_sense_are_refused(values: dict[str, float], line: str) -> None:
    with pytest.raises(CurationError, match=line):
        AxisRule(axis="x", **values)


# --- what each threshold removes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_together_are_the_selection(seed: int) -> None:
    table, config = random_table(seed), random_rules(seed)
    keep, reasons = select(table, config)
    found = thresholds(table, config)
    assert (~np.any([threshold.failed for threshold in found], axis=0) == keep).all()
    for row, names in enumerate(reasons):
        assert set(names) == {threshold.reason for threshold in found if threshold.failed[row]}


def test_explained_removals_alone_and_in_turn_in_the_order_of_svd() -> None:
    rules = (
        AxisRule(axis="ocr_area_ratio", maximum=0.07, drop_highest_frac=0.2),
        AxisRule(axis="motion_score", drop_lowest_frac=0.25),
        AxisRule(axis="duration_s", minimum=2.0),
    )
    table = clips(
        dup_of=[None, None, None, None, "a"],
        duration_s=[1.0, 3.0, 3.0, 3.0, 3.0],
        motion_score=[0.1, 0.2, 0.3, 0.4, None],
        ocr_area_ratio=[0.0, 0.0, 0.01, 0.09, 0.0],
    )
    explained = explain(table, SelectConfig(rules=rules))
    assert explained.to_dict("split")["data"] == [
        ["duplicate", "no copy of a better clip", pytest.approx(np.nan, nan_ok=True), 1, 0, 4],
        ["low_duration_s", "at least 2", 2.0, 1, 0, 3],
        ["no_motion_score", "measured", pytest.approx(np.nan, nan_ok=True), 1, 0, 3],
        ["low_motion_score", "not the lowest 25 %", 0.2, 1, 0, 3],
        ["high_ocr_area_ratio", "at most 0.07", 0.07, 1, 0, 2],
        ["high_ocr_area_ratio", "not the highest 20 %", 0.01, 1, 0, 2],
    ]
    assert explain(table, SelectConfig(rules=rules[2:], drop_duplicates=False))["alone"].tolist() == [1]
    assert explain(table, SelectConfig(drop_duplicates=False)).empty
    far = SelectConfig(rules=(AxisRule(axis="motion_score", minimum=-9.0, maximum=9.0),), drop_duplicates=False)
    assert explain(table, far)["threshold"].dropna().tolist() == [-9.0, 9.0]
    assert explain(table.iloc[:0], SelectConfig(rules=rules))["removes"].tolist() == [0] * 5
