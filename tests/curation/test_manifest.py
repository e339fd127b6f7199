"""The folder of a dataset in the making: whose it is, what is kept, how parts appear. No Ray, no models."""

import dataclasses
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from curation.config import CurationConfig
from curation.config_json import to_json
from curation.decode_config import MotionConfig
from curation.manifest import Manifest, OutputError, check_output, config_of
from curation.records import Records, video_id_of
from curation.sources import Source
from curation.store import Store
from tests.curation.made_by_hand import record


@pytest.fixture
def manifest(tmp_path: Path, random_config: CurationConfig) -> Manifest:
    return Manifest.open(Store.at(tmp_path / "out"), random_config, str(tmp_path), num_inputs=600)


def frame(manifest: Manifest, table: str) -> pd.DataFrame:
    """As a user reads it."""
    return pd.read_parquet(f"{manifest.store}/{table}")


def test_tables_can_be_read_from_the_first_moment(manifest: Manifest) -> None:
    assert manifest.num_shards == 3
    for table in ("videos", "clips", "runs", "errors"):
        assert len(frame(manifest, table)) == 0
        assert list(frame(manifest, table).columns) == manifest.table_schema(table).names


def test_publishing_twice_keeps_rows_once(manifest: Manifest) -> None:
    shas = [f"{i:08x}" + "0" * 56 for i in range(5)]
    shards = {manifest.records.write(record(f"/v/{i}.mp4", sha, 2), "m") for i, sha in enumerate(shas)}
    for _ in range(2):
        for shard, files in manifest.records.by_shard().items():
            manifest.publish(shard, files)
        clips = frame(manifest, "clips")
        assert len(clips) == 10
        assert clips["clip_id"].is_unique
        assert clips["keep"].isna().all()
        assert len(clips["clip_embedding"].iloc[0]) == 128
    assert shards == {0, 1, 2}
    assert len(frame(manifest, "videos")) == 5


def test_publishing_unchanged_records_writes_nothing(manifest: Manifest) -> None:
    shard = manifest.records.write(record("/v/a.mp4", "a" * 64), "m")
    manifest.publish(shard, manifest.records.by_shard()[shard])
    path = Path(manifest.store.place(manifest.part("clips", shard)))
    before = path.stat().st_mtime_ns
    manifest.publish(shard, manifest.records.by_shard()[shard])
    assert path.stat().st_mtime_ns == before


def test_records_come_back_as_they_were(manifest: Manifest) -> None:
    stages = {"cuts": "1", "text": "2"}
    written = record("/v/a.mp4", "a" * 64, 2, stages, frame_embeddings=[[0.5] * 128] * 3, caption="a – “quoted” star")
    manifest.records.write(written, "m")
    (file,) = Records(manifest.store, manifest.num_shards).files().values()
    again = manifest.records.read(file)
    assert (file.status, file.measured) == ("ok", "m")
    assert again.clips == written.clips
    assert again.stages == stages


def test_what_is_known_survives_and_changed_files_are_superseded(manifest: Manifest) -> None:
    old, new = "a" * 64, "b" * 64
    source = Source("/v/a.mp4", 10, 1)
    manifest.remember_hashes([source], {source.uri: old})
    manifest.records.write(record(source.uri, old), "m")
    assert manifest.known_hashes([source]) == {source.uri: old}
    changed = dataclasses.replace(source, modified_ns=2)
    assert manifest.known_hashes([changed]) == {}
    manifest.remember_hashes([changed], {source.uri: new})
    for records in (manifest.records, Records(manifest.store, manifest.num_shards)):
        (file,) = records.files().values()
        assert file.status == "superseded"
        assert records.read(file).clips == []
    manifest.records.write(record(source.uri, old), "m")  # the old bytes are back
    (file,) = Records(manifest.store, manifest.num_shards).files().values()
    assert file.status == "ok"


def test_a_kill_between_writing_and_deleting_leaves_the_newer(manifest: Manifest) -> None:
    manifest.records.write(record("/v/a.mp4", "a" * 64), "old")
    (old,) = manifest.records.files().values()
    content = manifest.store.read(old.name) or b""
    manifest.records.write(record("/v/a.mp4", "a" * 64, 2), "new")
    earlier = Path(manifest.store.place(old.name))
    earlier.write_bytes(content)

    os.utime(earlier, ns=(1, 1))
    assert [file.measured for file in Records(manifest.store, manifest.num_shards).files().values()] == ["new"]


def test_second_opening_goes_on(manifest: Manifest, random_config: CurationConfig, tmp_path: Path) -> None:
    manifest.records.write(record("/v/a.mp4", "a" * 64), "m")
    again = Manifest.open(manifest.store, random_config, str(tmp_path), num_inputs=9000)
    assert again == manifest
    assert len(again.records.files()) == 1
    again.store.delete(again.part("clips", 0))  # as after a start that was cut short
    Manifest.open(manifest.store, random_config, str(tmp_path), 1)
    assert len(frame(manifest, "clips")) == 0


def snapshot(root: str) -> dict[str, tuple[int, bytes]]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_other_inputs_widths_and_folders_are_refused_untouched(
    manifest: Manifest, random_config: CurationConfig, tmp_path: Path
) -> None:
    before = snapshot(manifest.store.root)
    wide = json.loads((random_config.embed.weights / "open_clip_config.json").read_text())
    wide["model_cfg"]["embed_dim"] = 256
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "open_clip_config.json").write_text(json.dumps(wide))
    wider = dataclasses.replace(
        random_config, embed=dataclasses.replace(random_config.embed, weights=tmp_path / "wide")
    )
    with pytest.raises(OutputError, match="width 128"):
        Manifest.open(manifest.store, wider, str(tmp_path), 1)
    with pytest.raises(OutputError, match="was made from --input"):
        Manifest.open(manifest.store, random_config, str(tmp_path / "elsewhere"), 1)
    assert snapshot(manifest.store.root) == before

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="holds something else"):
        Manifest.open(Store.at(foreign), random_config, str(tmp_path), 1)
    assert [path.name for path in foreign.iterdir()] == ["config.json"]
    with pytest.raises(OutputError, match="is a file"):
        check_output(Store.at(foreign / "config.json"), random_config, "x")
    with pytest.raises(OutputError, match="is no dataset"):
        Manifest.existing(Store.at(foreign))


def test_another_config_takes_over(manifest: Manifest, random_config: CurationConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(random_config, motion=MotionConfig(sample_fps=4.0))
    before = snapshot(manifest.store.root)
    opened = Manifest.open(manifest.store, other, str(tmp_path), 1)
    assert opened.measured != manifest.measured
    assert snapshot(manifest.store.root) == before, "until everything about it has been checked"
    opened.adopt()
    assert Manifest.existing(manifest.store).config == other
    assert (tmp_path / "out" / "config.json").read_text() == to_json(other) + "\n"


def test_a_lost_part_is_published_again(manifest: Manifest, random_config: CurationConfig, tmp_path: Path) -> None:
    shard = manifest.records.write(record("/v/a.mp4", "a" * 64), "m")
    manifest.publish(shard, manifest.records.by_shard()[shard])
    manifest.mark_finished()
    manifest.store.delete(manifest.part("clips", shard))
    again = Manifest.open(manifest.store, random_config, str(tmp_path), 1)
    assert not again.is_finished()
    again.publish(shard, again.records.by_shard()[shard])
    assert len(frame(manifest, "clips")) == 1


def test_bytes_that_cannot_be_read_now_stay_known(manifest: Manifest) -> None:
    source = Source("/v/a.mp4", 10, 1)
    manifest.remember_hashes([source], {source.uri: "a" * 64})
    manifest.records.write(record(source.uri, "a" * 64), "m")
    away = Source("/v/a.mp4", None, None)
    assert manifest.remember_hashes([away], {source.uri: None}) == [source.uri]
    assert [file.status for file in manifest.records.files().values()] == ["ok"]
    assert manifest.known_hashes([source]) == {source.uri: "a" * 64}


def test_a_renamed_file_takes_its_record_along(manifest: Manifest) -> None:
    old, new = "/v/a.mp4", "/v/z.mp4"
    manifest.records.write(record(old, "a" * 64, 2), "m")
    manifest.records.take_over({new: "a" * 64})
    found = {file.status: manifest.records.read(file) for file in manifest.records.files().values()}
    assert found["ok"].video["source_uri"] == new
    assert [clip["source_uri"] for clip in found["ok"].clips] == [new, new]
    assert found["superseded"].video["source_uri"] == old
    assert found["superseded"].clips == []
    before = dict(manifest.records.files())
    manifest.records.take_over({new: "a" * 64})
    assert manifest.records.files() == before


def test_what_file_systems_leave_behind_is_no_record(manifest: Manifest) -> None:
    manifest.records.write(record("/v/a.mp4", "a" * 64), "m")
    for name in (".nfs0001", ".DS_Store", "_1_x.json", f"{'b' * 16}-{'c' * 8}.ok.m.12345678.json"):
        manifest.store.write(f"manifest/videos/00000/{name}", b"")
    assert len(Records(manifest.store, manifest.num_shards).files()) == 1


def test_finished_depends_on_records_and_config(manifest: Manifest) -> None:
    assert not manifest.is_finished()
    manifest.mark_finished()
    assert manifest.is_finished()
    manifest.records.write(record("/v/a.mp4", "a" * 64), "m")
    assert not manifest.is_finished()


def test_shards_are_fixed_by_content(manifest: Manifest) -> None:
    ids = [video_id_of(f"{i:08x}" + "0" * 56, "/v") for i in range(9)]
    assert [manifest.records.shard_of(video_id) for video_id in ids] == [i % 3 for i in range(9)]


def test_a_dataset_of_another_version_says_what_to_do(manifest: Manifest) -> None:
    path = Path(str(manifest.store)) / "manifest/job.json"
    job = json.loads(path.read_text())
    job["config"]["merge"]["chosen"] = "template"
    path.write_text(json.dumps(job))
    with pytest.raises(OutputError, match=r"another version.*no field 'chosen'.*new --output") as caught:
        config_of(manifest.store)
    assert "\n" not in str(caught.value)
