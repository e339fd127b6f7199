"""What is there already beside an output: done, or one line that names what is in the way and what would work."""

import json
from pathlib import Path
from typing import Any

import pytest

from nuwa.generate.record import is_done, write_record
from nuwa.hierarchy import NuwaError

OLD: dict[str, Any] = {
    "weights_sha256": "a",
    "num_frames": 10,
    "depth": 2,
    "window_length": 5,
    "height": 16,
    "width": 16,
    "sampling": {"seed": 0, "batch": 8},
    "level_spans": [[["a red star", 0, 9]], [["a red star", 0, 9]]],
    "given": [],
    "upscale": 1,
    "format": "mp4",
}
OTHER_BATCH = {**OLD, "sampling": {"seed": 0, "batch": 3}}


def refusal(video: Path, record: dict[str, Any]) -> str:
    """The line, without the folder, and that nothing was touched."""
    before = {path: path.read_bytes() for path in video.parent.rglob("*") if path.is_file()}
    with pytest.raises(NuwaError) as caught:
        is_done(video, record)
    assert {path: path.read_bytes() for path in video.parent.rglob("*") if path.is_file()} == before
    return str(caught.value).replace(f"{video.parent}/", "")


def windows(folder: Path) -> None:
    (folder / "_v.windows").mkdir()
    (folder / "_v.windows/0-000000.safetensors").write_bytes(b"window")


def test_done_is_done_and_nothing_is_not(tmp_path: Path) -> None:
    assert not is_done(tmp_path / "v.mp4", OLD)
    write_record(tmp_path / "v.mp4", OLD)
    assert not is_done(tmp_path / "v.mp4", OLD)  # interrupted: the same settings go on
    (tmp_path / "v.mp4").write_bytes(b"video")
    assert is_done(tmp_path / "v.mp4", OLD)


def test_a_finished_video_with_other_settings_is_named_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"video")
    assert refusal(tmp_path / "v.mp4", OLD) == (
        "v.mp4 is there already and differs in everything (there is no record that says how it was made); "
        "give another --output, or remove it"
    )
    write_record(tmp_path / "v.mp4", OLD)
    line = (
        "v.mp4 is there already and differs in batch (8 there, 3 asked for); give another --output, or remove it and "
    )
    assert refusal(tmp_path / "v.mp4", OTHER_BATCH) == line + "v.json"
    windows(tmp_path)
    assert refusal(tmp_path / "v.mp4", OTHER_BATCH) == line + "v.json and _v.windows"
    assert refusal(tmp_path / "v.mp4", {**OLD, "upscale": 2}).endswith(
        "remove it and v.json"
    )  # its windows still serve


def test_an_unfinished_video_goes_on_with_the_old_settings_or_is_removed_whole(tmp_path: Path) -> None:
    write_record(tmp_path / "v.mp4", OLD)
    line = (
        "v.json is there already and differs in batch (8 there, 3 asked for), of v.mp4, which is not complete; "
        "give the old settings to go on, or remove v.json"
    )
    assert refusal(tmp_path / "v.mp4", OTHER_BATCH) == line
    windows(tmp_path)
    assert refusal(tmp_path / "v.mp4", OTHER_BATCH) == f"{line} and _v.windows"
    assert refusal(tmp_path / "v.mp4", {**OLD, "upscale": 2}).endswith("to go on, or remove v.json")
    assert refusal(tmp_path / "v.gif", {**OLD, "format": "gif"}).endswith(
        "of v.mp4, which is not complete; give the old settings to go on, or remove v.json"
    )


@pytest.mark.parametrize(("name", "kind", "wanted"), [("v.mp4", "mp4", "v.gif"), ("v", "png", "v.mp4")])
def test_another_format_of_the_same_name_needs_another_name(tmp_path: Path, name: str, kind: str, wanted: str) -> None:
    if kind == "png":
        (tmp_path / name).mkdir()
    (tmp_path / name / "frame-000000.png" if kind == "png" else tmp_path / name).write_bytes(b"video")
    write_record(tmp_path / name, {**OLD, "format": kind})
    asked = {**OLD, "format": wanted[-3:]}
    assert refusal(tmp_path / wanted, asked) == (
        f"v.json belongs to {name} and differs in format ({kind} there, {wanted[-3:]} asked for); "
        "give --output another name than v"
    )


@pytest.mark.parametrize("content", [json.dumps({"title": "mine"}), "[]", "not JSON"])
def test_a_json_of_the_user_is_not_taken_for_a_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "v.json").write_text(content)
    assert refusal(tmp_path / "v.mp4", OLD) == (
        "v.json is there already and is no record of a video; give another --output"
    )


def test_the_record_is_written_past_what_has_nearly_its_name(tmp_path: Path) -> None:
    (tmp_path / "_v.json").write_text("mine")
    write_record(tmp_path / "v.mp4", OLD)
    assert json.loads((tmp_path / "v.json").read_text()) == OLD
    assert (tmp_path / "_v.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_v.json", "v.json"]
