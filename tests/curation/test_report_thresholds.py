"""The sections on thresholds, duplicates and clip files against tables whose figures are known."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from curation.config import AxisRule, DedupConfig, SelectConfig
from curation.report_duplicates import duplicates
from curation.report_files import clip_files
from curation.report_thresholds import NEAREST, thresholds
from curation.stages.select import select
from tests.curation import small_dataset


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The clips of the small dataset."""
    return pd.read_parquet(small_dataset.build(tmp_path_factory.mktemp("thresholds")) / "clips")


def scored(scores: list[float | None], config: SelectConfig, **columns: object) -> pd.DataFrame:
    """Clips a, b, … with these motion scores, selected by `config`; their source does not exist."""
    ids = [chr(97 + n) for n in range(len(scores))]
    known = {"source_uri": "/gone/film.mp4", "start_s": 0.0, "end_s": 1.0, "caption": [f"clip {name}" for name in ids]}
    table = pd.DataFrame({"clip_id": ids, "motion_score": scores, **known, **columns})
    keep, reasons = select(table, config)
    return table.assign(keep=keep, filter_reasons=pd.Series(reasons, dtype=object))


def on_motion(**rule: float) -> SelectConfig:
    return SelectConfig(rules=(AxisRule(axis="motion_score", **rule),))


def sides(body: str) -> list[tuple[str, str]]:
    """Every side of every threshold in order: (good or bad, clips shown as one string of letters)."""
    found = re.findall(r'<div class="side (good|bad)">(.*?)</div>(?=<div class="line"|</div>)', body)
    return [(kind, "".join(re.findall(r"</b> clip (\w)", content))) for kind, content in found]


def cells(body: str) -> list[list[str]]:
    """Rows of the table of counts, as text."""
    rows = re.findall(r"<tr><td>(.*?)</tr>", body)
    return [re.sub(r"<[^>]+>", "|", row.replace("<small>", "").replace("</small>", "")).split("||") for row in rows]


def heads(body: str) -> list[tuple[str, str]]:
    """Title and note of every card."""
    return re.findall(r'<div class="head"><b>(.*?)</b><span>(.*?)</span></div>', body)


def test_a_minimum_has_rejected_clips_left_and_kept_ones_right_nearest_to_it() -> None:
    config = on_motion(minimum=0.45)
    section = thresholds(scored([0.1, 0.9, 0.2, 0.8, 0.3, 0.5, 0.4, 0.6], config), config)
    assert sides(section.body) == [("bad", "ceg"), ("good", "fhd")]
    assert "motion: at least 0.45" in section.body
    assert "rejects 4 of 8 clips, 4 that nothing else rejects" in section.body
    assert '<div class="line"><b>0.45</b></div>' in section.body


def test_a_maximum_has_them_the_other_way_round() -> None:
    config = on_motion(maximum=0.45)
    table = scored([0.1, 0.9, 0.2, 0.8, 0.3, 0.5, 0.4, 0.6], config)
    assert sides(thresholds(table, config).body) == [("good", "ceg"), ("bad", "fhd")]


def test_a_share_is_drawn_at_the_score_where_it_cuts() -> None:
    config = on_motion(drop_lowest_frac=0.25)
    section = thresholds(scored([0.1, 0.2, 0.3, 0.4], config), config)
    assert sides(section.body) == [("bad", "a"), ("good", "bcd")]
    assert "not the lowest 25 %" in section.body
    assert '<div class="line"><b>0.2</b></div>' in section.body


def test_ties_are_shown_in_order_of_clip_id_whatever_the_order_of_rows() -> None:
    config = on_motion(minimum=0.5)
    table = scored([0.5] * 6 + [0.1] * 5, config)
    pages = {thresholds(table.sample(frac=1, random_state=seed), config).body for seed in range(4)}
    assert len(pages) == 1
    assert sides(pages.pop()) == [("bad", "ghi"), ("good", "abc")]


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ([0.6, 0.7], [("bad", ""), ("good", "ab")]),
        ([0.1, 0.2], [("bad", "ab"), ("good", "")]),
        ([None, None], [("bad", ""), ("good", "")]),
        ([], [("bad", ""), ("good", "")]),
    ],
)
def test_a_side_may_be_empty(scores: list[float | None], shown: list[tuple[str, str]]) -> None:
    config = on_motion(minimum=0.5)
    body = thresholds(scored(scores, config), config).body
    assert sides(body) == shown
    assert body.count("no clip is rejected by this") + body.count("no clip is let through by this") == 2 - sum(
        bool(names) for _, names in shown
    )


def test_a_share_of_nothing_measured_has_no_score_to_draw() -> None:
    config = on_motion(drop_lowest_frac=0.5)
    body = thresholds(scored([None, None], config), config).body
    assert sides(body) == []
    assert cells(body)[0][:3] == ["motion measured", "", "2"]


def test_without_rules_there_is_a_line() -> None:
    config = SelectConfig(drop_duplicates=False)
    assert "No rule is in force" in thresholds(scored([0.1], config), config).body


def test_counts_of_every_threshold_and_what_is_left_after_it(small: pd.DataFrame) -> None:
    config = SelectConfig(rules=small_dataset.RULES)
    body = thresholds(small, config).body
    assert cells(body) == [
        ["duplicates no copy of a better clip", "", "1", "16.7%", "0|"],
        ["motion at least 0.05", "0.05", "2", "33.3%", "0|"],
        ["aesthetic not the lowest 20 %", "5", "1", "16.7%", "0|"],
        ["text area at most 0.07", "0.07", "0", "0.0%", "0|"],
    ]
    assert [int(left) for left in re.findall(r"</div><b>(\d+)</b>", body.partition("Each on its own")[0])] == [
        6,
        5,
        4,
        4,
        4,
    ]
    assert body.count("<img") == sum(len(re.findall("<figure", body)) for _ in range(1)) > 2 * NEAREST
    assert "also low_aesthetic_score" in body
    assert "a &lt;square&gt; moves" in body


def test_copies_beside_what_they_are_copies_of(small: pd.DataFrame) -> None:
    body = duplicates(small, DedupConfig()).body.partition("No copies")[0]
    assert body.count("<figure>") == body.count("<img") == 2
    assert "similarity 0.9950" in body
    copy, original = body.split("<figure>")[1:]
    assert "film1.mp4  0.0 to 1.0 s" in copy
    assert "film0.mp4  2.0 to 3.0 s" in original
    assert "kept all the same" not in body


def test_exact_copies_are_told_from_likeness_and_the_doubtful_come_first(small: pd.DataFrame) -> None:
    table = small.assign(
        content_digest=["x", "x", "y", "z", "u", "v"],
        dup_of=[None, "clip00", "clip00", "clip00", None, None],
        dup_similarity=[np.nan, 1.0, 0.99, 1.0, np.nan, np.nan],
    )
    section = duplicates(table, DedupConfig())
    assert "3 of 6 clips are copies of a better one: 1 have its very frames, 2 look like it" in section.note
    assert heads(section.body.partition("No copies")[0]) == [
        ("similarity 0.9900", "kept all the same"),
        ("similarity 1.0000", ""),
        ("the same frames", "kept all the same"),
    ]


def test_copies_of_a_whole_video_are_one_example(small: pd.DataFrame) -> None:
    table = small.assign(
        content_digest=["x", "y", "z", "x", "y", "z"],
        dup_of=[None, None, None, "clip00", "clip01", "clip02"],
        dup_similarity=[np.nan] * 3 + [1.0] * 3,
        filter_reasons=[[]] * 3 + [["duplicate"]] * 3,
    )
    section = duplicates(table, DedupConfig())
    assert "3 of 6 clips are copies of a better one: 3 have its very frames, 0 look like it" in section.note
    assert heads(section.body.partition("No copies")[0]) == [("the same frames", "one of 3 pairs from these two files")]


def test_on_the_other_side_of_the_line_stand_the_most_alike_that_both_stay(small: pd.DataFrame) -> None:
    """Embeddings are 0.1 rad apart in order of clip_id; clip10 is a copy, so five clips and four pairs remain."""
    section = duplicates(small, DedupConfig(eps=0.001))
    assert "(a cosine of 0.999 counts)" in section.note
    alike = section.body.partition("No copies")[2]
    assert [head for head, _ in heads(alike)] == ["similarity 0.9950"] * 3
    shown = re.findall(r"film(\d).mp4  (\d).0", alike)
    pairs = sorted("".join(one + other) for one, other in zip(shown[::2], shown[1::2], strict=True))
    assert pairs == ["0001", "0102", "1112"]
    assert "kept all the same" not in alike


def test_no_copies_at_all(small: pd.DataFrame) -> None:
    section = duplicates(small.assign(dup_of=None), DedupConfig())
    assert section.note == "No clip is a copy of another: only the very same frames count."
    assert "<h3>Copies" not in section.body
    for nothing in (small.iloc[:0], small.assign(dup_of=None).drop(columns="clip_embedding")):
        assert duplicates(nothing, DedupConfig()).body == ""


def test_loss_of_clip_files_by_method(small: pd.DataFrame) -> None:
    (section,) = clip_files(small)
    rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall(r"<tr><td>.*?</tr>", section.body)]
    assert rows == [
        ["copy", "2", "2.0 s", "0.2 s", "10.0%", "10.0%"],
        ["encode", "2", "2.0 s", "0.0 s", "0.0%", "0.0%"],
    ]
    assert section.body.count("film0.mp4") == 2
    assert section.body.count("<svg") == 1


def test_clip_files_without_loss_or_without_files(small: pd.DataFrame) -> None:
    (section,) = clip_files(small.assign(file_loss_frac=small["file_loss_frac"] * 0))
    assert "No file lacks anything" in section.body
    assert clip_files(small.assign(file_name=None)) == []
    assert clip_files(small.iloc[:0]) == []
    assert clip_files(small.drop(columns="file_name")) == []


def test_captions_are_text_and_never_markup(tmp_path: Path) -> None:
    config = on_motion(minimum=0.5)
    table = scored([0.1, 0.9], config).assign(caption="<script>", source_uri=str(tmp_path / '"><b>.mp4'))
    body = thresholds(table, config).body
    assert "<script>" not in body
    assert "<b>.mp4" not in body
