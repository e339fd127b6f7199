"""Clip files through every codec and container at hand: the right frames, all of them, pixel for pixel where copied."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pandas as pd
import pytest

from curation import clip_files
from curation.clip_files import copy_loss, write_clip_file
from curation.config import ClipFileConfig, RunConfig
from curation.config_error import CurationError
from curation.isolation import KillableWorker
from curation.stream_copy import ClipFileError, NotCopyableError
from curation.video import VideoDecodeError, decode
from tests.curation.clip_rows import (
    AUTO,
    COPY,
    ENCODE,
    RUNS,
    SMALL_VIDEOS,
    frames_between,
    likeness_db,
    require_copy,
    rows_of,
    write_small_video,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`small(name)`: the path of one of SMALL_VIDEOS."""
    folder = tmp_path_factory.mktemp("small")

    def find(name: str) -> str:
        path = folder / name
        if not path.exists():
            write_small_video(path, *SMALL_VIDEOS[name])
        return str(path)

    return find


@pytest.mark.parametrize("name", SMALL_VIDEOS)
def test_copies_are_the_source_pixel_for_pixel(small: Callable[[str], str], tmp_path: Path, name: str) -> None:
    (whole,) = rows_of(small(name))
    assert require_copy(whole, tmp_path)["file_num_frames"] == 60
    pieces = [require_copy(row, tmp_path) for row in rows_of(small(name), (10, 29, 47))]
    assert sum(piece["file_num_frames"] or 0 for piece in pieces) >= 25
    suffix = ".mkv" if name.startswith(("vp8", "mpeg2")) else ".mp4"
    assert all(path.suffix == suffix for path in tmp_path.iterdir())


def test_only_the_start_needs_a_key_frame(small: Callable[[str], str], tmp_path: Path) -> None:
    """Key frames every 12 frames, three B-frames between two P-frames; cuts at 10 and 29."""
    first, second, _ = rows_of(small("h264.mp4"), (10, 29))
    file = require_copy(first, tmp_path)
    assert (file["file_start_s"], file["file_num_frames"]) == (0.0, 9)
    file = require_copy(second, tmp_path)
    assert file["file_start_s"] == pytest.approx(1.2)
    assert file["file_num_frames"] == 17
    assert copy_loss(second).both_ends == pytest.approx(7 / 19)


def test_copies_of_the_same_clip_are_the_same_bytes(small: Callable[[str], str], tmp_path: Path) -> None:
    for name in ("h264.mkv", "vp8_hidden_frames.webm"):
        (row,) = rows_of(small(name))
        names = [write_clip_file(row, tmp_path / f"{n}", COPY, RUNS)["file_name"] for n in range(2)]
        assert (tmp_path / names[0]).read_bytes() == (tmp_path / names[1]).read_bytes()


def test_sources_behind_a_uri(small: Callable[[str], str], tmp_path: Path) -> None:
    with fsspec.open("memory://films/h264.mkv", "wb") as file:
        file.write(Path(small("h264.mkv")).read_bytes())
    row = rows_of("memory://films/h264.mkv", (10, 29))[1]
    assert require_copy(row, tmp_path)["file_num_frames"] == 17
    assert write_clip_file(row, tmp_path / "a", ENCODE, RUNS)["file_num_frames"] == 19


def test_numbers_of_a_frame_are_taken(small: Callable[[str], str], tmp_path: Path) -> None:
    """Rows from pandas hold numpy's numbers; what comes back can be stored as JSON."""
    row = pd.DataFrame(rows_of(small("h264.mp4"), (10, 29))).iloc[1].to_dict()
    for config, num_frames in ((COPY, 17), (ENCODE, 19)):
        facts = write_clip_file(row, tmp_path / "a", config, RUNS)
        assert json.loads(json.dumps(facts)) == facts
        assert facts["file_num_frames"] == num_frames


def test_in_a_process_that_can_be_killed(small: Callable[[str], str], tmp_path: Path) -> None:
    """Everything travels there and back, errors too."""
    worker = KillableWorker(write_clip_file, time_limit_s=120.0, memory_limit_bytes=8 << 30)
    try:
        (row,) = rows_of(small("h264.mp4"))
        assert worker.call(row, tmp_path / "a", COPY, RUNS)["file_num_frames"] == 60
        with pytest.raises(VideoDecodeError, match=r"gone\.mp4"):
            worker.call(row | {"source_uri": "gone.mp4"}, tmp_path / "a", AUTO, RUNS)
    finally:
        worker.stop()


def test_edit_list_hides_frames_that_a_copy_must_not_show(small: Callable[[str], str], tmp_path: Path) -> None:
    """The first 5 frames are trimmed away; the copy begins at the next key frame."""
    edited = tmp_path / "edited.mp4"
    with (
        av.open(small("h264.mp4")) as source,
        av.open(str(edited), "w", options={"movflags": "use_metadata_tags"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(0.5 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                sink.mux(packet)
    (row,) = rows_of(str(edited))
    assert row["num_frames"] == 55
    file = require_copy(row, tmp_path)
    assert file["file_num_frames"] == 48


def test_no_key_frame_inside(small: Callable[[str], str], tmp_path: Path) -> None:
    row = rows_of(small("h264.mp4"), (13, 23))[1]
    lost = write_clip_file(row, tmp_path / "a", COPY, RUNS)
    assert lost.pop("file_loss_frac") == 1.0
    assert set(lost.values()) == {None}
    assert list(tmp_path.iterdir()) == []
    encoded = write_clip_file(row, tmp_path / "a", AUTO, RUNS)
    assert (encoded["file_method"], encoded["file_num_frames"], encoded["file_loss_frac"]) == ("encode", 10, 0.0)
    nothing = write_clip_file(row, tmp_path / "b", ClipFileConfig(), RUNS)
    assert set(nothing.values()) == {None}
    assert set(nothing) == {"file_name", *(name for name in encoded if name != "file_name")}


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.11, 1.0])
def test_auto_copies_up_to_the_limit(small: Callable[[str], str], tmp_path: Path, limit: float) -> None:
    row = rows_of(small("h264.mp4"), (10, 29))[0]  # a copy loses one frame of ten
    config = ClipFileConfig(materialize="auto", largest_loss_frac=limit)
    file = write_clip_file(row, tmp_path / "a", config, RUNS)
    assert file["file_method"] == ("copy" if limit > 0.1 else "encode")


@pytest.mark.parametrize("name", [*SMALL_VIDEOS])
def test_encoded_at_its_own_rate_every_frame_comes_once(small: Callable[[str], str], tmp_path: Path, name: str) -> None:
    """Also where the container rounds times to milliseconds."""
    for row in rows_of(small(name), (10, 29)):
        file = write_clip_file(row, tmp_path / "a", ENCODE, RUNS)
        found = list(decode(str(tmp_path / "a.mp4")))
        wanted = frames_between(row["source_uri"], row["start_s"], row["end_s"])
        assert len(found) == len(wanted) == file["file_num_frames"] == row["num_frames"]
        assert file["file_start_s"] == row["start_s"]
        assert np.diff([frame.time_s for frame in found]) == pytest.approx(0.1, abs=1e-3)
        assert min(likeness_db(a.image, b.image) for a, b in zip(found, wanted, strict=True)) > 25


def test_encoded_at_training_size_and_a_given_rate(small: Callable[[str], str], tmp_path: Path) -> None:
    config = ClipFileConfig(materialize="encode", encode_fps=25.0)
    row = rows_of(small("h264.mp4"), (10, 29))[1]
    file = write_clip_file(row, tmp_path / "a", config, RunConfig(height=32, width=32, gop_frames=6))
    found = list(decode(str(tmp_path / "a.mp4")))
    assert len(found) == file["file_num_frames"] == round(1.9 * 25)
    assert found[0].size == (32, 32)
    assert [frame.index for frame in found if frame.picture.key_frame] == list(range(0, len(found), 6))


def test_what_cannot_be_copied_is_encoded_by_auto(small: Callable[[str], str], tmp_path: Path) -> None:
    """H.264 with B-frames in AVI: the container states no presentation times."""
    path = write_small_video(tmp_path / "h264.avi", *SMALL_VIDEOS["h264.mp4"])
    (row,) = rows_of(str(path))
    with pytest.raises(NotCopyableError, match="give --materialize encode or auto"):
        write_clip_file(row, tmp_path / "copy", COPY, RUNS)
    assert write_clip_file(row, tmp_path / "auto", AUTO, RUNS)["file_method"] == "encode"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auto.mp4", "h264.avi"]


@pytest.mark.parametrize("config", [COPY, ENCODE, AUTO], ids=lambda config: config.materialize)
class TestBadSources:
    """One line that names the file; nothing is written."""

    def refused(self, row: dict[str, Any], folder: Path, config: ClipFileConfig) -> str:
        with pytest.raises(VideoDecodeError) as caught:
            write_clip_file(row, folder / "clip", config, RUNS)
        assert "\n" not in str(caught.value)
        assert list(folder.glob("*clip*")) == []
        return str(caught.value)

    def test_gone(self, small: Callable[[str], str], tmp_path: Path, config: ClipFileConfig) -> None:
        row = rows_of(small("h264.mp4"))[0] | {"source_uri": str(tmp_path / "gone.mp4")}
        assert "gone.mp4" in self.refused(row, tmp_path, config)

    def test_cut_short_since(self, small: Callable[[str], str], tmp_path: Path, config: ClipFileConfig) -> None:
        row = rows_of(small("h264.mkv"), (30,))[1]
        short = tmp_path / "short.mkv"
        content = Path(small("h264.mkv")).read_bytes()
        short.write_bytes(content[: len(content) * 7 // 10])
        assert "short.mkv" in self.refused(row | {"source_uri": str(short)}, tmp_path, config)

    def test_another_video_in_its_place(
        self, small: Callable[[str], str], tmp_path: Path, config: ClipFileConfig
    ) -> None:
        row = rows_of(small("h264.mp4"), (30,))[1]
        other = write_small_video(tmp_path / "other.mp4", *SMALL_VIDEOS["h264.mp4"], num_frames=40)
        assert "changed" in self.refused(row | {"source_uri": str(other)}, tmp_path, config)

    def test_damaged_inside(self, media: Callable[[str], Path], tmp_path: Path, config: ClipFileConfig) -> None:
        path = str(media("decord/corrupted.mp4"))
        row = {"clip_id": "c", "source_uri": path, "start_pts": 0, "end_pts": 51200, "start_s": 0.0, "end_s": 5.0}
        assert "corrupted.mp4" in self.refused(row | {"duration_s": 5.0, "num_frames": 50}, tmp_path, config)


@pytest.mark.parametrize("config", [COPY, ENCODE, AUTO], ids=lambda config: config.materialize)
def test_disk_full(
    small: Callable[[str], str], tmp_path: Path, config: ClipFileConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (row,) = rows_of(small("h264.mp4"))
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ClipFileError, match=r"cannot be written \(No space left on device\): free space"):
        write_clip_file(row, tmp_path / "clip", config, RUNS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("config", [COPY, ENCODE], ids=lambda config: config.materialize)
def test_disk_full_inside_the_writer(
    small: Callable[[str], str], tmp_path: Path, config: ClipFileConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that writes containers meets a full device itself."""
    (row,) = rows_of(small("vp8_hidden_frames.webm"))
    opened = av.open

    def on_full_device(name: str, *rest: Any, **options: Any) -> Any:
        return opened("/dev/full" if "clip" in name and rest[:1] == ("w",) else name, *rest, **options)

    monkeypatch.setattr(av, "open", on_full_device)
    with pytest.raises(ClipFileError, match="cannot be written"):
        write_clip_file(row, tmp_path / "clip", config, RUNS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(small: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (row,) = rows_of(small("h264.mp4"))
    with pytest.raises(ClipFileError, match="cannot be written"):
        write_clip_file(row, tmp_path / "file" / "clip", COPY, RUNS)


def test_a_copy_that_shows_other_frames_never_appears(
    small: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = rows_of(small("h264.mp4"))
    real = clip_files.decode

    def one_less(uri: str, start_s: float | None = None) -> Any:
        frames = list(real(uri, start_s))
        return iter(frames[:-1] if "clip" in uri else frames)

    monkeypatch.setattr(clip_files, "decode", one_less)
    with pytest.raises(NotCopyableError, match="a copy of 60 frames shows 59"):
        write_clip_file(row, tmp_path / "clip", COPY, RUNS)
    assert list(tmp_path.iterdir()) == []
    assert write_clip_file(row, tmp_path / "clip", AUTO, RUNS)["file_method"] == "encode"


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"largest_loss_frac": 1.5}, r"largest_loss_frac = 1\.5"), ({"encode_fps": 0.0}, r"encode_fps = 0\.0")],
)
def test_settings_out_of_range(setting: dict[str, float], message: str) -> None:
    with pytest.raises(CurationError, match=message):
        ClipFileConfig(**setting)  # type: ignore[arg-type]
