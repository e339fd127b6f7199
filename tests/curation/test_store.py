"""Files appear whole or not at all; what goes wrong is one line that says what to do."""

import os
import subprocess
from pathlib import Path

import pytest

from curation.store import Store, StoreError, file_system, open_file


def test_written_read_listed_deleted(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "new")
    assert store.read("a/b.json") is None
    assert store.entries("a") == []
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"two")
    store.write("c.json", b"three")
    assert store.read("a/b.json") == b"two"
    assert [(entry.name, entry.size_bytes) for entry in store.entries("")] == [("a/b.json", 3), ("c.json", 5)]
    assert store.exists("c.json")
    store.delete("c.json")
    store.delete("c.json")
    assert not store.exists("c.json")


@pytest.mark.parametrize("place", ["memory://store-test/data", "file"])
def test_the_same_on_other_file_systems(tmp_path: Path, place: str) -> None:
    store = Store.at(f"file://{tmp_path}" if place == "file" else place)
    assert (store.folder == tmp_path) == (place == "file")
    store.write("a/b.json", b"one")
    with store.writing_into("media") as folder:
        (folder / "x.mp4").write_bytes(b"video")
    assert [entry.name for entry in store.entries("")] == ["a/b.json", "media/x.mp4"]
    with open_file(store.place("media/x.mp4")) as file:
        file.seek(2)
        assert file.read() == b"deo"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    store.write("table.parquet", b"old")

    def break_half_way() -> None:
        with store.writing("table.parquet") as path:
            path.write_bytes(b"ne")
            raise OSError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        break_half_way()
    assert os.listdir(tmp_path) == ["table.parquet"]  # noqa: PTH208
    assert store.read("table.parquet") == b"old"


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(small_disk: Path) -> None:
    store = Store.at(small_disk)
    store.write("a", bytes(500_000))
    with pytest.raises(StoreError, match="make room"):
        store.write("a", bytes(700_000))
    assert store.read("a") == bytes(500_000)
    assert os.listdir(small_disk) == ["a"]  # noqa: PTH208


def test_unknown_scheme_is_one_line() -> None:
    with pytest.raises(StoreError, match=r"use a path, file:// or s3://"):
        file_system("nosuch://bucket/x")
