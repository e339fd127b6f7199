"""Pictures read again at their stored times are bitwise those of the decode pass."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from curation.candidates import ClipAnalysis
from curation.reread import reread_here, reread_pictures
from curation.video import VideoDecodeError
from tests.curation.filmed import analysed, pack, shot, with_small_frames

CONFIG = with_small_frames()


def assert_same(again: Sequence[ClipAnalysis], clips: Sequence[ClipAnalysis]) -> None:
    assert [clip.row["clip_id"] for clip in again] == [clip.row["clip_id"] for clip in clips]
    for first, second in zip(clips, again, strict=True):
        assert np.array_equal(first.frames, second.frames)
        assert np.array_equal(first.grid, second.grid)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots, 16 s in all, with B-frames and few key frames."""
    images = shot(0, 150) + shot(1, 150) + shot(2, 100)
    options = {"crf": "10", "bf": "3", "g": "60"}
    return pack(tmp_path_factory.mktemp("film") / "x.mp4", images, [40 * k for k in range(400)], options=options)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.ts"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_same_pictures_from_every_container(tmp_path: Path, name: str, codec: str) -> None:
    times_ms = [40 * k + (k % 3) * 9 for k in range(160)]
    options = {"crf": "10", "bf": "2", "g": "30"} if codec == "libx264" else {"bf": "2", "g": "30", "b": "2M"}
    path = pack(tmp_path / name, shot(0, 90) + shot(1, 70), times_ms, codec, options)
    clips = analysed(path, CONFIG).clips
    assert len(clips) == 2
    assert_same(reread_here(str(path), [clip.row for clip in clips], CONFIG), clips)


def test_any_choice_of_rows_in_any_order(film: Path) -> None:
    clips = analysed(film, CONFIG).clips
    chosen = [clips[2], clips[0]]
    assert_same(reread_here(str(film), [clip.row for clip in chosen], CONFIG), chosen)
    assert reread_here(str(film), [clips[1].row], CONFIG)[0].row == clips[1].row


def test_a_child_process_does_the_work(film: Path, tmp_path: Path) -> None:
    clips = analysed(film, CONFIG).clips
    assert_same(reread_pictures(str(film), [clip.row for clip in clips], CONFIG), clips)
    assert reread_pictures(str(film), [], CONFIG) == []
    with pytest.raises(VideoDecodeError, match="No such file"):
        reread_pictures(str(tmp_path / "gone.mp4"), [clips[0].row], CONFIG)


def test_another_film_under_the_name_is_refused(film: Path, tmp_path: Path) -> None:
    rows = [clip.row for clip in analysed(film, CONFIG).clips]
    shorter = pack(tmp_path / "x.mp4", shot(0, 30), [40 * k for k in range(30)])
    with pytest.raises(VideoDecodeError, match="the file has changed, curate it again"):
        reread_here(str(shorter), rows, CONFIG)


@pytest.mark.parametrize(
    "name",
    [
        "moviepy/fire2.mp4",
        "mmaction2/test.mp4",
        "mmaction2/test.avi",
        "torchcodec/var_fps_video.mp4",
        "torchcodec/nasa_13013.mp4",
        "torchcodec/h264_10bits.mp4",
        "decord/video_90.mov",
        "decord/flipping_a_pancake.mkv",
        "moviepy/no_duration.webm",
        "data-juicer/video1.mp4",
        "moviepy/-video-with-dash-.mp4",
    ],
)
def test_real_files(media: Callable[[str], Path], name: str) -> None:
    clips = analysed(media(name), CONFIG).clips
    assert_same(reread_here(str(media(name)), [clip.row for clip in clips], CONFIG), clips)
