"""Clip files of real videos of many origins, and how much of them a copy keeps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curation.clip_files import copy_loss, write_clip_file
from curation.config import RunConfig
from curation.video import decode
from tests.curation.clip_rows import ENCODE, frames_between, likeness_db, require_copy, rows_of

REAL_FILES = {
    "data-juicer/video1.mp4": (60, 144, 237),  # h264 with B-frames
    "moviepy/big_buck_bunny_0_30.webm": (31, 60),  # vp8
    "moviepy/no_duration.webm": (24,),  # vp9, packets without a duration
    "torchcodec/av1_video.mkv": (41,),
    "torchcodec/h265_video.mp4": (4,),
    "torchcodec/var_fps_video.mp4": (100, 240),  # variable rate
    "mmaction2/test.avi": (),  # mpeg4
    "mmaction2/test.mp4": (100, 200),  # pixels 1024:765
    "decord/video_90.mov": (),  # rotated by 90 degrees
    "moviepy/fire2.mp4": (8,),  # rotated by 180 degrees, variable rate
    "torchcodec/nasa_13013.mp4": (200,),  # the better of two video streams
    "torchcodec/h264_10bits.mp4": (10,),
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_copies_of_real_files(media: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    rows = rows_of(str(media(name)), REAL_FILES[name])[:2]
    files = [require_copy(row, tmp_path, every=24) for row in rows]
    assert files[0]["file_method"] == "copy"


@pytest.mark.parametrize("name", REAL_FILES)
def test_encoded_real_files_begin_with_the_right_frame(media: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    for row in rows_of(str(media(name)), REAL_FILES[name])[:2]:
        file = write_clip_file(row, tmp_path / "a", ENCODE, RunConfig(height=96, width=128, crf=4))
        found = list(decode(str(tmp_path / "a.mp4")))
        assert len(found) == file["file_num_frames"] == row["num_frames"]
        source = frames_between(row["source_uri"], file["file_start_s"], file["file_start_s"] + 1e-3)[0]
        assert likeness_db(found[0].image, source.covering(128, 96)) > 28
        assert file["file_loss_frac"] < 1 / row["num_frames"]


# Whole videos, their ends snapped to key frames, keep 84, 90, 78 and 0 % of their duration, as published about peers.
SNAPPED_BOTH_ENDS = {
    "data-juicer/video1.mp4": 0.84,
    "data-juicer/video2.mp4": 0.90,
    "mmaction2/test.mp4": 0.78,
    "moviepy/chaplin.mp4": 0.0,
}


@pytest.mark.parametrize(("name", "kept"), SNAPPED_BOTH_ENDS.items())
def test_snapping_both_ends_loses_what_peers_lose(media: Callable[[str], Path], name: str, kept: float) -> None:
    (row,) = rows_of(str(media(name)))
    loss = copy_loss(row)
    assert 1 - loss.both_ends == pytest.approx(kept, abs=0.005)
    assert loss.here == pytest.approx(0.0, abs=1e-9)


# PySceneDetect's cuts (adaptive, 3.0) of the same release.
REAL_CUTS = {
    "data-juicer/video1.mp4": (144, 237),
    "data-juicer/video2.mp4": (),
    "pyscenedetect/testvideo.mp4": (30, 180, 394, 691),
    "pyscenedetect/counter.mp4": (20,),
    "moviepy/big_buck_bunny_0_30.webm": (31, 139, 283, 376, 551),
    "moviepy/video_with_failing_audio.mp4": (),
    "mmaction2/test.mp4": (),
}


@pytest.mark.slow  # decodes seven videos for their times
def test_a_copy_never_keeps_less_than_snapping_both_ends(media: Callable[[str], Path]) -> None:
    """Prints the table (pytest -s): share of the duration kept by a copy, and by one snapped on both sides."""
    print("\n| video | clips | kept here | both ends at key frames |")
    for name, cuts in REAL_CUTS.items():
        rows = rows_of(str(media(name)), cuts)
        losses = [copy_loss(row) for row in rows]
        assert all(loss.here <= loss.both_ends + 1e-9 for loss in losses)
        weights = [row["duration_s"] for row in rows]
        here, both = (1 - np.average(values, weights=weights) for values in zip(*losses, strict=True))
        print(f"| {name} | {len(rows)} | {here:.0%} | {both:.0%} |")
