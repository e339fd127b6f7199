"""Finished windows on disk: whole or not there, of one video only, and never lost to a full disk."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from nuwa.generate.finished_windows import FinishedWindows, differences
from nuwa.generate.windows import WindowResult
from nuwa.hierarchy import NuwaError, Window

IDENTITY = json.dumps({"weights": "abc", "sampling": {"seed": 1, "steps": 20}})
WINDOWS = [Window(0, 0, 0, 4), Window(1, 0, 0, 1), Window(1, 1, 4, 1)]


def result(seed: int, pixels: bool = True) -> WindowResult:
    draw = torch.Generator().manual_seed(seed)
    video = torch.randn(3, 5, 16, 16, generator=draw) if pixels else None
    return WindowResult(torch.randn(4, 5, 8, 8, generator=draw), video)


@pytest.fixture
def keep(tmp_path: Path) -> FinishedWindows:
    keep = FinishedWindows(tmp_path / "deep" / "windows", IDENTITY)
    for seed, window in enumerate(WINDOWS[:2]):
        keep.write(window, result(seed, pixels=seed == 0))
    return keep


def file_of(keep: FinishedWindows, window: Window) -> Path:
    return keep.folder / f"{window.level}-{window.index:06d}.safetensors"


def test_what_is_written_is_read_bitwise(keep: FinishedWindows) -> None:
    again = FinishedWindows(keep.folder, IDENTITY)
    assert again.windows(WINDOWS) == set(WINDOWS[:2])
    first, second = again.read(WINDOWS[0]), again.read(WINDOWS[1])
    assert torch.equal(first.latents, result(0).latents)
    assert first.pixels is not None
    assert torch.equal(first.pixels, result(0).pixels)
    assert torch.equal(second.latents, result(1, pixels=False).latents)
    assert second.pixels is None


def test_a_slice_of_a_larger_tensor_is_written_alone(keep: FinishedWindows) -> None:
    batch = torch.randn(50, 4, 5, 8, 8)
    keep.write(WINDOWS[2], WindowResult(batch[:, 0].transpose(0, 1)[:4, :5], None))
    assert file_of(keep, WINDOWS[2]).stat().st_size < 4 * 5 * 64 * 4 + 1000


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "text"])
def test_a_damaged_file_is_made_again(keep: FinishedWindows, harm: str) -> None:
    path = file_of(keep, WINDOWS[0])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    harmed = {"cut": content[:middle], "empty": b"", "flip": content, "text": b"not a tensor"}[harm]
    path.write_bytes(harmed)
    again = FinishedWindows(keep.folder, IDENTITY)
    assert again.windows(WINDOWS) == {WINDOWS[1]}
    assert not path.exists()


def test_a_file_that_goes_while_it_is_needed_is_told(keep: FinishedWindows) -> None:
    assert WINDOWS[0] in keep.windows(WINDOWS)
    file_of(keep, WINDOWS[0]).unlink()
    with pytest.raises(NuwaError, match=r"0-000000\.safetensors has gone or changed"):
        keep.read(WINDOWS[0])


def test_leftovers_of_a_killed_writer_are_no_windows_and_go(keep: FinishedWindows) -> None:
    whole = file_of(keep, WINDOWS[0])
    drafts = [whole.with_name(f"_123_{name}") for name in (file_of(keep, WINDOWS[2]).name, "identity.json")]
    for draft in drafts:
        shutil.copy(whole, draft)
    assert FinishedWindows(keep.folder, IDENTITY).windows(WINDOWS) == set(WINDOWS[:2])
    assert not any(draft.exists() for draft in drafts)
    other = json.dumps({"weights": "another"})
    shutil.copy(whole, drafts[0])
    with pytest.raises(NuwaError, match="another video"):
        FinishedWindows(keep.folder, other)
    assert drafts[0].exists()  # not ours to remove


def test_windows_of_another_video_are_refused_with_what_differs(keep: FinishedWindows) -> None:
    other = json.dumps({"weights": "abc", "sampling": {"seed": 2, "steps": 20}, "depth": 3})
    with pytest.raises(NuwaError, match=r"another video \(differs in sampling\.seed, depth\)") as caught:
        FinishedWindows(keep.folder, other)
    assert str(keep.folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert FinishedWindows(keep.folder, IDENTITY).windows(WINDOWS) == set(WINDOWS[:2])


def test_a_folder_of_somebody_else_is_left_alone(keep: FinishedWindows) -> None:
    """Without identity.json nothing says that the files are ours; drafts of a start that was killed are."""
    (keep.folder / "identity.json").unlink()
    before = {path.name: path.read_bytes() for path in keep.folder.iterdir()}
    with pytest.raises(NuwaError, match=r"no windows of a video in the making \(0-000000\.safetensors\)") as caught:
        FinishedWindows(keep.folder, IDENTITY)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in keep.folder.iterdir()} == before
    for path in keep.folder.iterdir():
        path.rename(path.with_name(f"_123_{path.name}"))
    assert FinishedWindows(keep.folder, IDENTITY).windows(WINDOWS) == set()


def test_identities_that_are_no_json_differ_as_a_whole() -> None:
    assert differences("one", "other") == "made with other settings"
    assert differences("1", "2") == "differs in identity"
    assert differences('{"a": [1]}', '{"a": [2]}') == "differs in a"


def test_a_full_disk_is_one_line_and_costs_nothing_finished(keep: FinishedWindows) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # the system refuses the rest of the file
    try:
        with pytest.raises(NuwaError, match="finished windows are kept: make room") as caught:
            keep.write(WINDOWS[2], result(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(keep.folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in keep.folder.iterdir()) == [
        "0-000000.safetensors",
        "1-000000.safetensors",
        "identity.json",
    ]
    keep.write(WINDOWS[2], result(2))
    assert FinishedWindows(keep.folder, IDENTITY).windows(WINDOWS) == set(WINDOWS)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NuwaError, match="cannot be written to"):
        FinishedWindows(tmp_path / "file" / "windows", IDENTITY)
