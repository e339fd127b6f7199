"""What counts as an input, and the one line for what does not."""

from pathlib import Path

import pytest

from curation.sources import InputError, list_sources


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.MP4", "deep/er/a.mkv", "-dash.mp4", ".hidden.mp4", "notes.txt", "still.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(place: str | Path) -> list[str]:
    return [Path(source.uri).name for source in list_sources(str(place))]


def test_folder_glob_file_and_uri(tree: Path) -> None:
    assert sorted(names(tree)) == ["-dash.mp4", "a.mkv", "b.MP4"]
    assert names(f"{tree}/*.mp4") == ["-dash.mp4"]
    assert sorted(names(f"{tree}/**/*.m*")) == ["-dash.mp4", "a.mkv"]
    assert names(tree / "b.MP4") == ["b.MP4"]
    assert sorted(names(f"file://{tree}")) == ["-dash.mp4", "a.mkv", "b.MP4"]
    source = list_sources(str(tree / "b.MP4"))[0]
    assert source.size_bytes == 1
    assert source.modified_ns == (tree / "b.MP4").stat().st_mtime_ns


def test_list_file_keeps_missing_entries(tree: Path) -> None:
    (tree / "list.txt").write_text(f"# two\nb.MP4\n\n{tree}/deep/er/a.mkv\ngone.mp4\n")
    found = {Path(source.uri).name: source.size_bytes for source in list_sources(str(tree / "list.txt"))}
    assert found == {"b.MP4": 1, "a.mkv": 1, "gone.mp4": None}


def test_no_line_of_a_list_is_lost(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cannot be looked up becomes a row that says so; a byte order mark is no part of a name."""
    lines = ["b.MP4", "film.gif", "noext", "nosuch://x/film.mp4?sig=1", "bad\0name.mp4", "x" * 300 + ".mp4"]
    (tree / "list.txt").write_text("\ufeff" + "\r\n".join(lines))
    found = {Path(source.uri).name: source.size_bytes for source in list_sources(str(tree / "list.txt"))}
    assert found.pop("b.MP4") == 1
    assert sorted(found) == sorted(Path(line).name for line in lines[1:])
    assert set(found.values()) == {None}
    monkeypatch.setattr("curation.sources.LONGEST_LIST_BYTES", 10)
    with pytest.raises(InputError, match="longer than"):
        list_sources(str(tree / "list.txt"))


def test_a_name_that_is_not_utf_8_is_one_line(tree: Path) -> None:
    import os

    with open(os.fsencode(tree) + b"/bad\xff.mp4", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    with pytest.raises(InputError, match=r"not UTF-8 .*bad\\xff"):
        list_sources(str(tree))


def test_relative_places_become_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert list_sources("deep")[0].uri == str(tree / "deep/er/a.mkv")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no video"),
        ("texts", "holds no video"),
        ("zeros", "are empty"),
        ("nothing*.mp4", "holds no video"),
        ("texts/a.txt", "holds no video"),
        ("blob.bin", "neither a video .* nor a list"),
    ],
)
def test_nothing_to_curate(tmp_path: Path, place: str, reason: str) -> None:
    for folder in ("empty", "texts", "zeros"):
        (tmp_path / folder).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words\nmore words\n")
    (tmp_path / "zeros" / "a.mp4").touch()
    (tmp_path / "blob.bin").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match=reason) as caught:
        list_sources(str(tmp_path / place))
    assert "\n" not in str(caught.value)


def test_missing_file_system_is_named() -> None:
    with pytest.raises(InputError, match=r"dropbox://films cannot be opened .*dropbox.*use a path"):
        list_sources("dropbox://films")


def test_what_the_file_system_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        list_sources(str(tmp_path / ("x" * 300)))
    assert "\n" not in str(caught.value)


def test_unknown_scheme_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        list_sources("gopher://nowhere/videos")
