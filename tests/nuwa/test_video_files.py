"""Frames to mp4, GIF and PNG: every frame, once, in order; complete or not there; a full disk is one line."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nuwa.generate.mp4 import Mp4File
from nuwa.generate.video_files import check_output, format_of, write_video
from nuwa.hierarchy import NuwaError

COLOURS = [(n * 20 % 256, 255 - n * 20 % 256, 128) for n in range(12)]


def flat_frames(count: int = 12, size: int = 16) -> Iterator[np.ndarray]:
    """Frames of one colour each, so that every format gives them back nearly."""
    for colour in COLOURS[:count]:
        yield np.broadcast_to(np.array(colour, np.uint8), (size, size, 3))


def read(path: Path) -> list[np.ndarray]:
    if path.is_dir():
        return [np.asarray(Image.open(image).convert("RGB")) for image in sorted(path.iterdir())]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("name", "tolerance"), [("a.mp4", 4), ("a.gif", 1), ("a", 0)])
@pytest.mark.parametrize("upscale", [1, 3])
def test_every_frame_comes_back_in_order(tmp_path: Path, name: str, tolerance: int, upscale: int) -> None:
    if name == "a.mp4" and upscale == 3:
        upscale = 4
    assert write_video(tmp_path / name, flat_frames(), 8, upscale) == 12
    images = read(tmp_path / name)
    assert [image.shape for image in images] == [(16 * upscale, 16 * upscale, 3)] * 12
    for image, colour in zip(images, COLOURS, strict=True):
        assert np.abs(image.astype(int) - colour).max() <= tolerance
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_gif_has_colours_of_its_own_in_every_frame(tmp_path: Path) -> None:
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:256:8, 0:256:8], 0), axis=-1).astype(np.uint8)
    frames = [ramp, ramp[..., ::-1]]
    write_video(tmp_path / "a.gif", frames, 8)
    for image, frame in zip(read(tmp_path / "a.gif"), frames, strict=True):
        assert np.abs(image.astype(int) - frame).mean() < 5


def test_a_gif_keeps_time(tmp_path: Path) -> None:
    """12 frames at 8 fps last 1.5 s, though a frame of 0.125 s is no whole number of hundredths."""
    write_video(tmp_path / "a.gif", flat_frames(), 8)
    with Image.open(tmp_path / "a.gif") as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
    assert abs(sum(durations) - 1500) <= 10


def test_only_one_frame_is_held(tmp_path: Path) -> None:
    """Each frame is asked for after the one before is written: with PNG the file is there by then."""
    written = []

    def frames() -> Iterator[np.ndarray]:
        for frame in flat_frames(5):
            written.append(len(list((tmp_path / "work/unfinished").iterdir())))
            yield frame

    (tmp_path / "work").mkdir()
    write_video(tmp_path / "a", frames(), 8, work=tmp_path / "work")
    assert written == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_nothing_half_written_stays_and_errors_of_the_maker_pass(tmp_path: Path, name: str) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from flat_frames(3)
        raise OSError(errno.EIO, "of the maker")

    with pytest.raises(OSError, match="of the maker"):
        write_video(tmp_path / name, frames(), 8)
    with pytest.raises(NuwaError, match="no frame"):
        write_video(tmp_path / name, iter(()), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_what_a_killed_process_left_is_written_over(tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    if name == "a":
        (work / "unfinished").mkdir()
        (work / "unfinished/frame-000099.png").write_bytes(b"old")
        (tmp_path / "a").mkdir()  # an empty folder of the user's may be filled
    else:
        (work / f"unfinished{Path(name).suffix}").write_bytes(b"old")
    write_video(tmp_path / name, flat_frames(), 8, work=work)
    assert len(read(tmp_path / name)) == 12
    assert not list(work.iterdir())


@pytest.mark.parametrize("work", [True, False])
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_what_has_nearly_the_same_name_is_not_touched(tmp_path: Path, name: str, work: bool) -> None:
    """A user's own file or folder with a `_` before the name of the output, whether it gets done or not."""
    mine = tmp_path / f"_{name}"
    if name == "a":
        mine.mkdir()
    note = mine / "mine.txt" if name == "a" else mine
    note.write_text("mine")
    (tmp_path / "work").mkdir()
    write_video(tmp_path / name, flat_frames(), 8, work=tmp_path / "work" if work else None)
    with pytest.raises(NuwaError, match="no frame"):
        write_video(tmp_path / f"b{Path(name).suffix}", iter(()), 8, work=tmp_path / "work" if work else None)
    assert note.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, name, "work"])
    assert not list((tmp_path / "work").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    (tmp_path / "disk").mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "disk")]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a small file system")
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_a_full_disk_is_one_line(small_disk: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(60))
    with pytest.raises(NuwaError, match="the disk is full") as caught:
        write_video(small_disk / name, frames, 8)
    assert str(small_disk / name) in str(caught.value)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_at_the_end_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where no file system can be mounted: the encoder reports it while it writes the header."""

    def finish(self: Mp4File) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Mp4File, "finish", finish)
    with pytest.raises(NuwaError, match="the disk is full"):
        write_video(tmp_path / "a.mp4", flat_frames(), 8)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NuwaError, match="cannot be written"):
        write_video(tmp_path / "file/a.mp4", flat_frames(), 8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    with pytest.raises(NuwaError, match="cannot be written"):
        write_video(tmp_path / "full", flat_frames(), 8)
    assert (tmp_path / "full/mine").exists()


@pytest.mark.parametrize(
    ("output", "height", "upscale", "fps", "words"),
    [
        ("a.avi", 16, 1, 8, "ends in .avi; give a name that ends in .mp4 or .gif"),
        ("a.MP4", 16, 1, 8, "ends in .MP4"),
        ("a.mp4", 15, 1, 8, "upscale by 2"),
        ("a.mp4", 16, 0, 8, "upscale 0"),
        ("a.gif", 16, 1, 60, "a GIF shows at most 50"),
        ("a.mp4", 16, 1, float("nan"), "fps is nan"),
        ("a.mp4", 16, 1, 1e-9, "less than a file can say"),
    ],
)
def test_what_no_file_can_hold_is_refused(output: str, height: int, upscale: int, fps: float, words: str) -> None:
    with pytest.raises(NuwaError) as caught:
        check_output(Path(output), height, 16, upscale, fps)
    assert words in str(caught.value)


def test_the_name_tells_the_format() -> None:
    assert [format_of(Path(name)) for name in ("a.mp4", "b/a.gif", "b.d/a", "a/")] == ["mp4", "gif", "png", "png"]
    for name in ("b.d/a", "a"):
        check_output(Path(name), 15, 17, 1, 120)
