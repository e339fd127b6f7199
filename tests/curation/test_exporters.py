"""Exports read back by those who use them: Hugging Face's loader, WebDataset's grouping by name, a CSV reader."""

import csv
import errno
import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from curation import exporters
from curation.config import CurationConfig
from curation.dataset import Dataset
from curation.exporters import ExportError, export_opensora, export_videofolder, export_webdataset
from curation.store import Store, open_file
from curation.video import decode, write_video
from tests.curation.exported import change_clips, kept


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- VideoFolder ----------------------------------------------------------------------------------------------------


def load_with_hugging_face(folder: Path, cache: Path) -> list[dict[str, Any]]:
    datasets = pytest.importorskip("datasets", reason="pip install -e .[dev]")
    loaded = datasets.load_dataset("videofolder", data_dir=str(folder), split="train", cache_dir=str(cache))
    return list(loaded.cast_column("video", datasets.Video(decode=False)))


def require_rows(rows: list[dict[str, Any]], dataset: Dataset) -> None:
    wanted = kept(dataset)
    assert [row["clip_id"] for row in rows] == sorted(wanted.index)
    for row in rows:
        clip = wanted.loc[row["clip_id"]]
        assert row["caption"] == clip["caption"]
        assert row["motion_score"] == pytest.approx(clip["motion_score"])
        assert list(row["filter_reasons"]) == []
        assert sum(1 for _ in decode(row["video"]["path"])) == clip["file_num_frames"]
        assert Path(row["video"]["path"]).stem == row["clip_id"]
        assert "clip_embedding" not in row


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.mark.usefixtures("offline")
def test_videofolder_loads_with_hugging_face(dataset: Dataset, tmp_path: Path) -> None:
    said = export_videofolder(dataset, tmp_path / "folder")
    assert said == f"{tmp_path / 'folder'}: 4 clips"
    require_rows(load_with_hugging_face(tmp_path / "folder", tmp_path / "cache"), dataset)


@pytest.mark.usefixtures("offline")
def test_videofolder_in_place_copies_nothing(dataset: Dataset, tmp_path: Path) -> None:
    runs = dataset.path / "media" / "runs"  # are no part of it
    write_video(runs / "run0.mp4", np.zeros((3, 32, 32, 3), np.uint8), fps=8)
    before = everything_below(dataset.path)
    assert export_videofolder(dataset) == f"{dataset.path}/media: 4 clips"
    after = everything_below(dataset.path)
    assert set(after) - set(before) == {"media/metadata.parquet"}
    require_rows(load_with_hugging_face(dataset.path / "media", tmp_path / "cache"), dataset)
    assert export_videofolder(dataset, dataset.path) == f"{dataset.path}/media: 4 clips"


def test_videofolder_links_on_the_same_disk_and_copies_elsewhere(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_videofolder(dataset, tmp_path / "linked")
    name = kept(dataset)["file_name"].iloc[0]
    source = dataset.path / name
    assert (tmp_path / "linked" / "clips" / source.name).samefile(source)

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    export_videofolder(dataset, tmp_path / "copied")
    copy = tmp_path / "copied" / "clips" / source.name
    assert not copy.samefile(source)
    assert copy.read_bytes() == source.read_bytes()


# --- WebDataset -----------------------------------------------------------------------------------------------------


def samples(folder: Path) -> list[dict[str, bytes]]:
    """As WebDataset groups them: neighbours whose names agree up to the first dot."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            previous = None
            for member in tar:
                key, _, kind = member.name.partition(".")
                assert key == previous or key not in found
                previous = key
                content = tar.extractfile(member)
                assert content is not None
                found[key][kind] = content.read()
    return [{"__key__": key.encode(), **parts} for key, parts in found.items()]


def test_webdataset_comes_back(dataset: Dataset, tmp_path: Path) -> None:
    export_webdataset(dataset, tmp_path / "shards", clips_per_shard=3)
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.tar")) == ["clips-000000.tar", "clips-000001.tar"]
    found = samples(tmp_path / "shards")
    wanted = kept(dataset)
    assert [sample["__key__"].decode() for sample in found] == sorted(wanted.index)
    for sample in found:
        clip = wanted.loc[sample["__key__"].decode()]
        assert set(sample) == {"__key__", "mp4", "txt", "json"}
        assert sample["txt"].decode() == clip["caption"]
        assert sample["mp4"] == (dataset.path / clip["file_name"]).read_bytes()
        facts = json.loads(sample["json"])
        assert facts["duration_s"] == 1.0
        assert isinstance(facts["file_num_frames"], int)
        assert facts["dup_of"] is None
        assert facts["filter_reasons"] == []
        assert "clip_embedding" not in facts


@pytest.mark.usefixtures("offline")
def test_webdataset_loads_with_hugging_face(dataset: Dataset, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install -e .[dev]")
    export_webdataset(dataset, tmp_path / "shards")
    shards = str(tmp_path / "shards" / "*.tar")
    loaded = datasets.load_dataset("webdataset", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    rows = list(loaded.cast_column("mp4", datasets.Video(decode=False)))
    assert [row["__key__"] for row in rows] == sorted(kept(dataset).index)
    assert [row["txt"] for row in rows] == list(kept(dataset).sort_index()["caption"])
    assert [row["json"]["clip_id"] for row in rows] == sorted(kept(dataset).index)


def test_webdataset_is_the_same_bytes_again(dataset: Dataset, tmp_path: Path) -> None:
    export_webdataset(dataset, tmp_path / "one")
    for path in (dataset.path / "media").rglob("*.mp4"):
        os.utime(path, (0, 0))
    export_webdataset(dataset, tmp_path / "two")
    export_webdataset(dataset, tmp_path / "two")  # replaces its own
    assert everything_below(tmp_path / "one") == everything_below(tmp_path / "two")


def test_webdataset_without_caption_or_with_another_container(dataset: Dataset, tmp_path: Path) -> None:
    clip_id = kept(dataset).index[0]
    old = kept(dataset)["file_name"].iloc[0]
    new = old.replace(".mp4", ".mkv")
    (dataset.path / old).rename(dataset.path / new)
    change_clips(dataset, lambda row: {"caption": None, "file_name": new} if row["clip_id"] == clip_id else {})
    export_webdataset(dataset, tmp_path / "shards")
    sample = samples(tmp_path / "shards")[0]
    assert set(sample) == {"__key__", "mkv", "txt", "json"}
    assert sample["txt"] == b""
    assert json.loads(sample["json"])["caption"] is None


# --- Open-Sora ------------------------------------------------------------------------------------------------------


def test_opensora_csv(dataset: Dataset, tmp_path: Path) -> None:
    assert export_opensora(dataset, tmp_path / "meta.csv") == f"{tmp_path / 'meta.csv'}: 4 clips"
    text = (tmp_path / "meta.csv").read_text()
    assert text.splitlines()[0] == "path,text,num_frames,fps,height,width,aes,flow,match"
    rows = list(csv.DictReader(text.splitlines()))
    for row, (_, clip) in zip(rows, kept(dataset).iterrows(), strict=True):
        assert Path(row["path"]) == dataset.path / clip["file_name"]
        assert row["text"] == clip["caption"]
        assert int(row["num_frames"]) == clip["file_num_frames"] == sum(1 for _ in decode(row["path"]))
        assert float(row["fps"]) == pytest.approx(16, abs=0.5)
        size = (48, 64) if clip["file_method"] == "copy" else (32, 32)
        assert (int(row["height"]), int(row["width"])) == size
        assert float(row["aes"]) == pytest.approx(clip["aesthetic_score"])
        assert float(row["flow"]) == pytest.approx(clip["motion_score"])
        assert row["match"] == "" if pd.isna(clip["clip_similarity"]) else float(row["match"]) == pytest.approx(50.0)
    assert export_opensora(dataset, tmp_path / "meta.csv", "keep and motion_score > 0.3").endswith("2 clips")
    assert len(pd.read_csv(tmp_path / "meta.csv")) == 2


# --- a dataset on an object store -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FarTables:
    """The tables of one dataset with the files of another place."""

    store: Store
    clips: pd.DataFrame
    config: CurationConfig

    def open(self, file_name: str) -> BinaryIO:
        return open_file(self.store.place(file_name))


def test_from_an_object_store(dataset: Dataset, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset.path / "media"), "/bucket/data/media", recursive=True)
    far = FarTables(Store.at("memory://bucket/data"), dataset.clips, dataset.config)
    export_webdataset(dataset, tmp_path / "near")
    export_webdataset(far, tmp_path / "far")
    shard = "clips-000000.tar"
    assert (tmp_path / "near" / shard).read_bytes() == (tmp_path / "far" / shard).read_bytes()
    export_videofolder(far, tmp_path / "folder")
    assert len(list((tmp_path / "folder" / "clips").iterdir())) == 4
    export_opensora(far, tmp_path / "meta.csv")
    assert pd.read_csv(tmp_path / "meta.csv")["path"].str.startswith("memory://bucket/data/media/clips/").all()
    export_videofolder(far)
    assert memory.exists("/bucket/data/media/metadata.parquet")


# --- places ---------------------------------------------------------------------------------------------------------

EXPORTS = [export_videofolder, export_webdataset, export_opensora]


@pytest.mark.parametrize("export", EXPORTS)
def test_a_file_that_is_missing(dataset: Dataset, tmp_path: Path, export: Callable[..., str]) -> None:
    name = kept(dataset)["file_name"].iloc[-1]
    (dataset.path / name).unlink()
    before = everything_below(tmp_path)
    with pytest.raises(ExportError, match=f"{name} is named in clips but cannot be opened"):
        export(dataset, tmp_path / "out.csv")
    with pytest.raises(ExportError, match="cannot be opened"):
        export_videofolder(dataset)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("export", EXPORTS)
def test_an_output_that_holds_something_else(dataset: Dataset, tmp_path: Path, export: Callable[..., str]) -> None:
    file = tmp_path / "file.csv"
    file.write_text("my notes")
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    (folder / "thesis.txt").write_text("all of it")
    for output in (file, folder):
        with pytest.raises(ExportError, match=r"holds something else|is a folder"):
            export(dataset, output)
    assert file.read_text() == "my notes"
    assert (folder / "thesis.txt").read_text() == "all of it"


def test_what_others_added_to_an_export_is_never_deleted(dataset: Dataset, tmp_path: Path) -> None:
    export_webdataset(dataset, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("my notes")
    with pytest.raises(ExportError, match="holds something else"):
        export_webdataset(dataset, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "my notes"


def test_another_format_is_something_else_and_an_empty_folder_is_not(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_webdataset(dataset, tmp_path / "out")
    with pytest.raises(ExportError, match="holds something else"):
        export_videofolder(dataset, tmp_path / "out")
    with pytest.raises(ExportError, match="--output is missing"):
        export_webdataset(dataset, None)
    with pytest.raises(ExportError, match="at least 1"):
        export_webdataset(dataset, tmp_path / "out", clips_per_shard=0)
    for output in (None, tmp_path / "out", tmp_path / "table.txt"):
        with pytest.raises(ExportError, match=r"does not end in \.csv"):
            export_opensora(dataset, output)


@pytest.mark.parametrize("export", EXPORTS)
def test_disk_full(
    dataset: Dataset, tmp_path: Path, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old export stays, nothing half-written beside it."""
    output = tmp_path / "out.csv"
    export(dataset, output)
    before = everything_below(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    monkeypatch.setattr(pq, "write_table", full)
    monkeypatch.setattr(exporters, "_write_csv", full)
    with pytest.raises(ExportError, match=r"cannot be written \(No space left on device\)"):
        export(dataset, output, "motion_score > 0.3")
    assert everything_below(tmp_path) == before
