"""Runs of a dataset: chosen by a query over what is known of them, refused by table and column when they do not fit."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuwa.data.runs import read_runs
from nuwa.data.runs_query import runs_where, table_of_runs
from nuwa.data.tables import DataError
from nuwa.train.config import TrainConfig
from nuwa.train.loop import train
from tests.nuwa.tiny_dataset import write_dataset


def change(folder: Path, table: str, **columns: object) -> None:
    """Give a table other columns: a list of values, an array, or None to take the column away."""
    path = folder / table / "part-00000.parquet"
    known = pq.read_table(path)
    for name, values in columns.items():
        if name in known.column_names:
            known = known.drop_columns([name])
        if values is not None:
            known = known.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    pq.write_table(known, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs of 12, 9 and 6 frames: two clips of 6, one of 6 and one of 3, one of 6."""
    folder = write_dataset(tmp_path / "ds", [12, 9, 6])
    change(
        folder,
        "clips",
        keep=[True, False, True, True, None],
        aesthetic_score=[4.0, 8.0, 7.0, None, 5.0],
        filter_reasons=[[], ["low_motion"], [], [], ["no_motion"]],
        clip_embedding=pa.array([[0.5, 0.5]] * 5, pa.list_(pa.float16(), 2)),
        num_frames=[6, 6, 6, 3, 6],
    )
    return folder


def chosen(folder: Path, where: str) -> list[str]:
    return [run.run_id for run in read_runs(folder, where)]


def test_a_run_has_means_shares_and_texts_of_its_clips_by_frames(folder: Path) -> None:
    table = table_of_runs(folder)
    assert table["keep"].fillna(-1).tolist() == [0.5, 1.0, -1]
    assert table["aesthetic_score"].tolist() == [6.0, 7.0, 5.0]  # a clip without a score does not count
    assert table["motion_score"].tolist() == pytest.approx([0.15, (6 * 0.1 + 3 * 0.2) / 9, 0.1])
    assert table["num_frames"].tolist() == [12, 9, 6]  # of the run, not of its clips
    assert table["num_clips"].tolist() == [2, 2, 1]
    assert table["filter_reasons"].tolist() == ["low_motion", "", "no_motion"]
    assert table["caption"].tolist()[0] == "a red star in scene 0\na red star in scene 1"
    assert "clip_embedding" not in table


@pytest.mark.parametrize(
    ("where", "runs"),
    [
        ("num_frames >= 9", [0, 1]),
        ("keep > 0.9 and aesthetic_score > 6", [1]),
        ("keep > 0.9 or not num_frames > 6", [1, 2]),
        ("(keep == 0.5) | (num_clips == 1)", [0, 2]),
        ("keep > 0.4 & aesthetic_score < 7", [0]),
        ("5 < aesthetic_score * 2 - num_frames / 3 <= 11", [0, 2, 1]),
        ("caption.str.contains('scene 1')", [0, 1]),
        ("filter_reasons.str.contains('LOW', case=False)", [0]),
        ("run_id in ['run-2', 'run-0']", [0, 2]),
        ("run_id.isin(('run-1',)) or keep.isna()", [1, 2]),
        ("motion_score.between(0.14, 0.2)", [0]),
        ("  num_frames == -(-6)\n", [2]),
    ],
)
def test_a_query_chooses_runs(folder: Path, where: str, runs: list[int]) -> None:
    assert chosen(folder, where) == [f"run-{number}" for number in sorted(runs)]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "is no pandas query"),
        ("keep >", "is no pandas query"),
        ("keep = 1", "is no pandas query"),
        ("import os", "is no pandas query"),
        ("`keep` > 0", "is no pandas query"),
        ("keep > @folder", "is no pandas query"),
        ("(" * 300, "is no pandas query"),
        ("sharpness > 3", "names 'sharpness', which is no column"),
        ("index > 0", "names 'index', which is no column"),
        ("__import__('os').system('true')", "which is no column|may be called"),
        ("keep.__class__", "reads 'keep.__class__'; only columns may be read"),
        ("keep.values > 0", "reads 'keep.values'"),
        ("keep.__class__.__mro__[1].__subclasses__()", "calls|reads|holds"),
        ("caption.str.__class__.mro()", "calls|reads"),
        ("keep.to_pickle('stolen')", r"calls 'keep.to_pickle'; only abs, between, isin, isna, notna, str.contains"),
        ("caption.str.repeat(9)", "calls 'caption.str.repeat'"),
        ("keep.str.abs()", "calls 'keep.str.abs'"),
        ("keep.isna().all()", "calls 'keep.isna\\(\\).all'"),
        ("keep[0] > 0", "holds Subscript"),
        ("[x for x in keep]", "holds ListComp|names 'x'"),
        ("(lambda: keep)()", "calls"),
        ("f'{keep}' == '1'", "holds JoinedStr"),
        ("keep ** 9 > 0", "holds Pow"),
        ("(k := keep) > 0", "holds NamedExpr|names 'k'"),
        ("keep @ keep > 0", "holds MatMult"),
        ("keep > b'1'", "holds a bytes"),
        ("keep", "is no yes or no for each run; compare a column"),
        ("3 > 2", "is no yes or no for each run"),
        ("keep > 'much'", "cannot be computed"),
        ("num_frames.isin(keep > 0, 3, 4)", "cannot be computed"),
        ("caption.str.contains('(')", "cannot be computed"),
        ("keep.str.contains('a')", "cannot be computed"),
        ("keep > 2", "keeps none of the 3 runs"),
    ],
)
def test_what_is_no_query_over_columns_is_one_line_with_the_columns(folder: Path, where: str, message: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(DataError, match=message) as caught:
        runs_where(folder, where)
    assert "columns: aesthetic_score, caption, clip_id, file_name, filter_reasons, height, keep," in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(folder.parent.rglob("*")) == before


def test_a_stride_no_run_reaches_is_named_after_the_choice_too(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        stage="vae", dataset=folder, output=tmp_path / "run", length=4, depth=2, engine="local", where="num_frames < 10"
    )
    message = r"stride 3: 4 frames span 10, the longest of 2 runs has 9 \(1 missing\).*where is 'num_frames < 10'"
    with pytest.raises(DataError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("clips", "caption", None, r"clips has no column caption, which holds text; give a dataset made by"),
        ("clips", "caption", [1, 2, 3, 4, 5], r"clips: column caption holds int64, but text are needed"),
        ("clips", "motion_score", ["a"] * 5, r"clips: column motion_score holds string, but numbers are needed"),
        ("clips", "caption_llm", [1.0] * 5, r"clips: column caption_llm holds double, but text"),
        ("runs", "num_frames", None, r"runs has no column num_frames, which holds whole numbers"),
        ("runs", "num_frames", [1.5, 2.0, 3.0], r"runs: column num_frames holds double, but whole numbers"),
        ("runs", "width", [16, None, 16], r"runs: column width has no value in row 1"),
        ("runs", "clip_ids", ["a", "b", "c"], r"runs: column clip_ids holds string, but lists of text"),
        (
            "runs",
            "first_frame_of_clip",
            [[0.5], [0.5], [0.5]],
            r"first_frame_of_clip holds list<.*double.*>, but lists",
        ),
        ("runs", "first_frame_of_clip", [[0], [0, 6], [0]], r"run run-0 has 2 clip_ids and 1 first_frame_of_clip"),
        ("runs", "clip_ids", [["x", "y"], ["x", "y"], ["x"]], r"run run-0 names clip x, which .*clips lacks"),
    ],
)
def test_a_table_of_another_schema_is_named_with_the_column(
    folder: Path, table: str, column: str, values: list[object] | None, message: str
) -> None:
    change(folder, table, **{column: values})
    with pytest.raises(DataError, match=message) as caught:
        read_runs(folder)
    assert "\n" not in str(caught.value)


def test_columns_of_nulls_and_missing_captions_are_no_error(folder: Path) -> None:
    change(folder, "clips", caption=pa.nulls(5), motion_score=pa.nulls(5))
    run = read_runs(folder)[0]
    assert run.prompts == ("", "")
    assert run.captions == (("", "", ""),) * 2
    assert all(score != score for score in run.motion_scores)


def test_a_table_cut_short_is_named(folder: Path) -> None:
    path = folder / "runs/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"runs cannot be read \(.*\); run pipelines.curate again") as caught:
        read_runs(folder)
    assert "\n" not in str(caught.value)
