"""A dataset made without Ray, operator by operator: read it, try other thresholds, find what is broken."""

import contextlib
import dataclasses
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import job
from curation.config import AxisRule, CurationConfig, SelectConfig
from curation.config_error import CurationError
from curation.dataset import Dataset, open_dataset
from curation.finish import finish, lacks_files, remove_unreferenced
from curation.manifest import Manifest, OutputError
from curation.media import MEDIA_INDEX, make, run_media
from curation.plan import plan_work
from curation.runs import plan_runs
from curation.sources import list_sources
from curation.store import Store
from curation.verify import verify
from curation.video import content_hash
from tests.curation.test_operators import analysed, measured


@pytest.fixture(scope="module")
def dataset(footage: Path, random_config: CurationConfig, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The two good videos of the footage, taken through every operator by hand."""
    store = Store.at(tmp_path_factory.mktemp("dataset") / "out")
    sources = [source for source in list_sources(str(footage)) if Path(source.uri).name in ("a.mp4", "b.mp4")]
    manifest = Manifest.open(store, random_config, str(footage), len(sources))
    manifest.remember_hashes(sources, {source.uri: content_hash(source.uri)[0] for source in sources})
    for todo in plan_work(sources, manifest.known_hashes(sources), manifest).measure:
        record = measured(analysed(Path(todo.uri), manifest), random_config)
        manifest.records.write(record, manifest.measured)
        for plan in plan_runs([{**clip, "filter_reasons": []} for clip in record.clips], random_config.runs):
            make(run_media(plan, random_config), store, random_config)
    for shard, files in manifest.records.by_shard().items():
        manifest.publish(shard, files)
    finish(manifest, contextlib.nullcontext, tell=print)
    return open_dataset(store.root)


def test_tables_agree(dataset: Dataset, random_config: CurationConfig) -> None:
    assert list(dataset.videos["status"]) == ["ok", "ok"]
    assert list(dataset.videos["num_clips"]) == [2, 2]
    clips = dataset.clips
    assert clips["keep"].notna().all()
    assert (clips["filter_reasons"].map(len).eq(0) == clips["keep"].astype(bool)).all()
    assert dataset.videos.set_index("video_id")["num_kept"].sum() == clips["keep"].sum()
    assert dataset.config == random_config
    for run in dataset.runs.to_dict("records"):
        assert list(run["first_frame_of_clip"]) == [0, 24]
        assert run["num_frames"] == 48
        assert Path(dataset.frames_of(run["run_id"])).is_file()
    assert len(dataset.errors) == 0


def test_scores_are_in_their_ranges(dataset: Dataset) -> None:
    clips = dataset.clips
    assert clips["motion_score"].gt(0).all()
    assert clips["ocr_area_ratio"].between(0, 1).all()
    unsaid = clips["caption"] == ""  # models with random weights may end at once
    assert (clips["clip_similarity"].between(-1, 1) | unsaid).all()
    assert clips["caption"].map(lambda text: isinstance(text, str)).all()


def test_thresholds_can_be_tried_without_touching_anything(dataset: Dataset) -> None:
    before = dataset.clips
    strict = SelectConfig(rules=(AxisRule(axis="motion_score", minimum=1e6),))
    tried = dataset.reselect(strict)
    assert not tried["keep"].any()
    assert tried["filter_reasons"].map(list).tolist() == [["low_motion_score"]] * 4
    pd.testing.assert_frame_equal(dataset.clips, before)


def test_a_refused_reselection_changes_nothing(dataset: Dataset, random_config: CurationConfig) -> None:
    before = {path: path.read_bytes() for path in dataset.path.rglob("*.json")}
    wrong = dataclasses.replace(random_config, select=SelectConfig(rules=(AxisRule(axis="beauty", minimum=1.0),)))
    with pytest.raises(CurationError, match="rule on 'beauty'"):
        job.reselect(str(dataset.path), wrong, job.Cluster())
    assert {path: path.read_bytes() for path in dataset.path.rglob("*.json")} == before


def test_whole_until_something_is_missing(dataset: Dataset) -> None:
    assert verify(dataset.path) == []
    run = Path(dataset.frames_of(dataset.runs["run_id"].iloc[0]))
    content = run.read_bytes()
    run.write_bytes(content[: len(content) // 2])
    (problem,) = verify(dataset.path)
    assert run.name in problem
    run.write_bytes(content)
    assert verify(dataset.path) == []


@pytest.mark.parametrize(
    ("table", "column", "value", "says"),
    [
        ("videos", "num_clips", 9, "has 9 clips, the table 2"),
        ("videos", "source_uri", "/elsewhere.mp4", "was never listed"),
        ("videos", "status", "fine", "unknown status fine"),
        ("clips", "keep", None, "1 rows not selected"),
        ("clips", "clip_index", 7, "not numbered in order of time"),
        ("clips", "num_frames", 3, "do not cover"),
        ("clips", "dup_of", "nobody", "names clip nobody"),
        ("runs", "num_frames", 4, "its row says 4"),
        ("runs", "clip_ids", ["nobody"], "names clip nobody"),
        ("runs", "file_name", "media/runs/gone.mp4", "cannot be decoded"),
    ],
)
def test_a_damaged_row_is_found(dataset: Dataset, table: str, column: str, value: object, says: str) -> None:
    part = dataset.path / table / "part-00000.parquet"
    whole = pq.read_table(part)
    rows = whole.to_pylist()
    rows[0][column] = value
    before = part.read_bytes()
    try:
        pq.write_table(type(whole).from_pylist(rows, whole.schema), part)
        assert any(says in problem for problem in verify(dataset.path))
    finally:
        part.write_bytes(before)
    assert verify(dataset.path) == []


def test_prune_removes_only_what_no_row_names(dataset: Dataset) -> None:
    stray = dataset.path / "media" / "runs" / "stray.mp4"
    stray.write_bytes(b"x")
    told: list[str] = []
    remove_unreferenced(Manifest.existing(dataset.store), tell=told.append)
    assert told == ["pruned 1 files"]
    assert not stray.exists()
    assert verify(dataset.path) == []


def test_prune_stops_where_files_could_not_be_made(
    dataset: Dataset, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that are away for a while must not cost the files that were made of them."""
    in_process = lambda plans, manifest: ((plan, *make(plan, manifest.store, manifest.config)) for plan in plans)  # noqa: E731
    monkeypatch.setattr("curation.pipeline.make_media", in_process)
    manifest = Manifest.existing(dataset.store)
    before = {name: manifest.store.read(manifest.part(name, 0)) for name in ("errors", "runs", "clips", "videos")}
    hidden = footage.with_name("hidden")
    config = dataclasses.replace(manifest.config, runs=dataclasses.replace(manifest.config.runs, crf=20))
    changed = dataclasses.replace(manifest, config=config)
    footage.rename(hidden)
    try:
        finish(changed, contextlib.nullcontext, tell=print)
        with pytest.raises(CurationError, match="nothing is pruned"):
            remove_unreferenced(changed, tell=print)
        assert len(list((dataset.path / "media" / "runs").iterdir())) == 2
    finally:
        hidden.rename(footage)
        for name, content in before.items():
            manifest.store.write(manifest.part(name, 0), content or b"")


def test_a_finish_that_was_cut_off_is_not_finished(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.existing(dataset.store)
    finish(manifest, contextlib.nullcontext, tell=print)
    assert manifest.is_finished()
    monkeypatch.setattr("curation.finish._replace_clips", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finish(manifest, contextlib.nullcontext, tell=print)
    assert not manifest.is_finished()
    monkeypatch.undo()
    finish(manifest, contextlib.nullcontext, tell=print)
    assert manifest.is_finished()


def test_an_index_in_place_never_outlives_its_files(dataset: Dataset) -> None:
    manifest = Manifest.existing(dataset.store)
    index = pa.table({"file_name": ["clips/gone.mp4"]})
    with dataset.store.writing(MEDIA_INDEX) as path:
        pq.write_table(index, path)
    assert any("names clips/gone.mp4" in problem for problem in verify(dataset.path))
    finish(manifest, contextlib.nullcontext, tell=print)
    assert not dataset.store.exists(MEDIA_INDEX)
    assert verify(dataset.path) == []


def test_a_file_that_is_gone_is_noticed(dataset: Dataset) -> None:
    manifest = Manifest.existing(dataset.store)
    assert not lacks_files(manifest)
    run = Path(dataset.frames_of(dataset.runs["run_id"].iloc[0]))
    content = run.read_bytes()
    run.unlink()
    assert lacks_files(manifest)
    run.write_bytes(content)


def test_finishing_again_makes_the_same_tables(dataset: Dataset) -> None:
    before = {name: dataset.read(name) for name in ("videos", "clips", "runs", "errors")}
    finish(Manifest.existing(dataset.store), contextlib.nullcontext, tell=print)
    for name, frame in before.items():
        pd.testing.assert_frame_equal(dataset.read(name), frame)


def test_joins_and_lineage(dataset: Dataset) -> None:
    joined = dataset.clips_with_videos()
    assert list(joined["clip_id"]) == list(dataset.clips["clip_id"])
    assert (joined["video_duration_s"] == 6.0).all()
    owned = dataset.clips_of_runs()
    assert set(owned["clip_id"]) == set(dataset.clips["clip_id"])
    run = dataset.runs.iloc[0]
    source = dataset.source_of(run["run_id"], 30)
    assert source.time_s == pytest.approx(30 / 8)
    assert source.clip_id == run["clip_ids"][1]
    assert len(dataset.copies()) == 0


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no dataset"):
        open_dataset(tmp_path)
