"""The folder of a dataset in the making: whose it is, what is kept, how parts appear. No Ray, no models."""

import dataclasses
import os
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from curation.config import AxisRule, CurationConfig, MotionConfig, RunConfig, SelectConfig
from curation.manifest import (
    Manifest,
    OutputError,
    Row,
    VideoRecord,
    check_output,
    measurement_fingerprint,
    video_id_of,
    write_atomically,
)
from curation.sources import Source


@pytest.fixture
def manifest(tmp_path: Path, random_config: CurationConfig) -> Manifest:
    return Manifest.open(tmp_path / "out", random_config, str(tmp_path), num_inputs=600)


def record(uri: str, sha256: str, num_clips: int = 1) -> VideoRecord:
    video_id = video_id_of(sha256, uri)
    video = {"video_id": video_id, "source_uri": uri, "status": "ok", "num_clips": num_clips}
    span = {"start_s": 0.0, "end_s": 1.0, "duration_s": 1.0, "start_pts": 0, "end_pts": 10, "start_frame": 0}
    span |= {"num_frames": 8, "width": 64, "height": 64, "cut_in": "start", "cut_out": "end"}
    known: Row = {"video_id": video_id, "source_uri": uri, "source_sha256": sha256}
    known |= {"clip_embedding": [0.25] * 128}
    clips = [{"clip_id": f"{video_id}{i}", "clip_index": i, **known, **span} for i in range(num_clips)]
    return VideoRecord({**video, "finished_at": datetime.now(UTC)}, clips)


def test_tables_can_be_read_from_the_first_moment(manifest: Manifest) -> None:
    assert manifest.num_shards == 3
    for table in ("videos", "clips", "runs", "errors"):
        frame = pd.read_parquet(manifest.root / table)
        assert len(frame) == 0
        assert list(frame.columns) == manifest.table_schema(table).names


def test_publishing_twice_keeps_rows_once(manifest: Manifest) -> None:
    shas = [f"{i:08x}" + "0" * 56 for i in range(5)]
    shards = {manifest.write_record(record(f"/v/{i}.mp4", sha, 2)) for i, sha in enumerate(shas)}
    for _ in range(2):
        for shard in shards:
            manifest.publish(shard)
        clips = pd.read_parquet(manifest.root / "clips")
        assert len(clips) == 10
        assert clips["clip_id"].is_unique
        assert clips["keep"].isna().all()
        assert len(clips["clip_embedding"].iloc[0]) == 128
    assert shards == {0, 1, 2}
    assert len(pd.read_parquet(manifest.root / "videos")) == 5


def test_what_is_known_survives_and_changed_files_are_superseded(manifest: Manifest) -> None:
    old, new = "a" * 64, "b" * 64
    source = Source("/v/a.mp4", 10, 1)
    manifest.remember_hashes([source], {source.uri: old})
    manifest.write_record(record(source.uri, old))
    assert manifest.known_hashes([source]) == {source.uri: old}
    changed = dataclasses.replace(source, modified_ns=2)
    assert manifest.known_hashes([changed]) == {}
    manifest.remember_hashes([changed], {source.uri: new})
    shard = manifest.shard_of(video_id_of(old, source.uri))
    (kept,) = manifest.records(shard)
    assert kept.video["status"] == "superseded"
    assert kept.clips == []
    assert manifest.recorded_keys() == set()


def test_second_opening_goes_on(manifest: Manifest, random_config: CurationConfig, tmp_path: Path) -> None:
    manifest.write_record(record("/v/a.mp4", "a" * 64))
    again = Manifest.open(manifest.root, random_config, str(tmp_path), num_inputs=9000)
    assert again == manifest
    assert len(again.recorded_keys()) == 1
    again.part("clips", 0).unlink()  # as after a start that was cut short
    assert len(pd.read_parquet(Manifest.open(manifest.root, random_config, str(tmp_path), 1).root / "clips")) == 0


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def test_other_configs_inputs_and_folders_are_refused_untouched(
    manifest: Manifest, random_config: CurationConfig, tmp_path: Path
) -> None:
    before = snapshot(manifest.root)
    measured = dataclasses.replace(random_config, motion=MotionConfig(sample_fps=4.0))
    rules = (AxisRule(axis="motion_score", minimum=9.0),)
    selected = dataclasses.replace(random_config, select=SelectConfig(rules=rules))
    with pytest.raises(OutputError, match="another config"):
        Manifest.open(manifest.root, measured, str(tmp_path), 1)
    with pytest.raises(OutputError, match="--reselect"):
        Manifest.open(manifest.root, selected, str(tmp_path), 1)
    with pytest.raises(OutputError, match="was made from --input"):
        Manifest.open(manifest.root, random_config, str(tmp_path / "elsewhere"), 1)
    assert snapshot(manifest.root) == before

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="holds something else"):
        Manifest.open(foreign, random_config, str(tmp_path), 1)
    assert [path.name for path in foreign.iterdir()] == ["config.json"]
    with pytest.raises(OutputError, match="is a file"):
        check_output(foreign / "config.json", random_config, "x")
    with pytest.raises(OutputError, match="is no dataset"):
        Manifest.existing(foreign)


def test_selection_and_runs_are_not_part_of_the_measurement(random_config: CurationConfig) -> None:
    other = dataclasses.replace(random_config, profile="mine", select=SelectConfig(), runs=RunConfig(train_fps=4.0))
    assert measurement_fingerprint(other) == measurement_fingerprint(random_config)
    moved = dataclasses.replace(random_config, motion=MotionConfig(short_side_px=64))
    assert measurement_fingerprint(moved) != measurement_fingerprint(random_config)


def test_one_process_at_a_time(manifest: Manifest) -> None:
    with manifest.lock(), pytest.raises(OutputError, match="another process"), manifest.lock():
        pass


def test_finished_depends_on_records_and_config(manifest: Manifest) -> None:
    assert not manifest.is_finished()
    manifest.mark_finished()
    assert manifest.is_finished()
    manifest.write_record(record("/v/a.mp4", "a" * 64))
    assert not manifest.is_finished()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_text("old")

    def break_half_way(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, break_half_way)
    assert os.listdir(tmp_path) == ["table.parquet"]  # noqa: PTH208
    assert path.read_text() == "old"
