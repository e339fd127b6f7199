"""A dataset made without Ray, operator by operator: read it, try other thresholds, find what is broken."""

import dataclasses
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from curation import job
from curation.config import AxisRule, CurationConfig, CurationError, SelectConfig
from curation.dataset import Dataset, open_dataset, verify
from curation.manifest import Manifest, OutputError
from curation.operators import CaptionStage, EmbedStage, TextStage, analyse, collect, failed_video
from curation.runs import plan_runs, write_planned_run
from curation.sources import list_sources
from curation.video import content_hash


@pytest.fixture(scope="module")
def dataset(footage: Path, random_config: CurationConfig, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The two good videos of the footage, taken through every operator by hand."""
    root = tmp_path_factory.mktemp("dataset") / "out"
    sources = [source for source in list_sources(str(footage)) if Path(source.uri).name in ("a.mp4", "b.mp4")]
    manifest = Manifest.open(root, random_config, str(footage), len(sources))
    manifest.remember_hashes(sources, {source.uri: content_hash(source.uri)[0] for source in sources})
    stages = [stage(random_config, manifest.embedding_dim) for stage in (TextStage, CaptionStage, EmbedStage)]
    hashes = manifest.known_hashes(sources)
    for source, sha256 in job.plan_work(sources, hashes, manifest).measure:
        item = pa.Table.from_pylist([{"uri": source.uri, "sha256": sha256}])
        rows = []
        for table in analyse(item, random_config, manifest.embedding_dim, root / "manifest" / "attempts"):
            for stage in stages:
                table = stage(table)
            rows += table.to_pylist()
        for record in collect(rows, manifest.embedding_dim):
            manifest.write_record(record)
            for plan in plan_runs([{**clip, "filter_reasons": []} for clip in record.clips], random_config.runs):
                write_planned_run(plan, root, random_config.runs)
    manifest.publish(0)
    job.finish(manifest, job.Cluster())
    return open_dataset(root)


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
        assert dataset.frames_of(run["run_id"]).is_file()
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
        job.reselect(dataset.path, wrong, job.Cluster())
    assert {path: path.read_bytes() for path in dataset.path.rglob("*.json")} == before


def test_whole_until_something_is_missing(dataset: Dataset) -> None:
    assert verify(dataset.path) == []
    run = dataset.frames_of(dataset.runs["run_id"].iloc[0])
    content = run.read_bytes()
    run.write_bytes(content[: len(content) // 2])
    (problem,) = verify(dataset.path)
    assert run.name in problem
    run.write_bytes(content)
    assert verify(dataset.path) == []


def test_settled_without_decoding(footage: Path, dataset: Dataset) -> None:
    """A copy of known bytes is a duplicate, unreadable bytes are a failure; neither is measured."""
    sources = list_sources(str(footage))
    hashes: dict[str, str | None] = {source.uri: content_hash(source.uri)[0] for source in sources}
    hashes[str(footage / "empty.mp4")] = None
    work = job.plan_work(sources, hashes, Manifest.existing(dataset.path))
    assert work.measure == []
    status = {Path(record.video["source_uri"]).name: record.video["status"] for record in work.settle}
    assert status == {"copy of a.mp4": "duplicate", "empty.mp4": "failed"}
    assert [len(record.errors) for record in work.settle] == [0, 1]
    assert failed_video("/x", None, "failed", "input", "OSError", "gone")["num_clips"] == 0


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no dataset"):
        open_dataset(tmp_path)
