"""The decode pass: clips on drawn films, cut lists peers publish for real films, and one status for every
file.
"""

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pyarrow as pa
import pytest

from curation import profiles, schema
from curation.analyse import VideoAnalysis, analyse_video, decode_pass
from curation.config import CurationConfig
from curation.decode_config import CutDetectorConfig, DecodeConfig, SceneConfig
from curation.isolation import KillableWorker, WorkerDiedError
from curation.picture import SmallCopy, detection_size
from curation.stages.scenes import Cut, find_cuts
from curation.video import content_hash, decode, write_video

# File, detector, threshold, cuts (PySceneDetect's published lists and its release 0.7.2).
GOLDENS: list[tuple[str, Literal["adaptive", "content"], float, list[int]]] = [
    ("pyscenedetect/testvideo.mp4", "adaptive", 3.0, [30, 180, 394, 691]),
    ("pyscenedetect/testvideo.mp4", "adaptive", 5.0, [30, 180, 394]),
    ("pyscenedetect/testvideo.mp4", "content", 27.0, [30, 180, 394]),
    ("pyscenedetect/testvideo.mp4", "content", 30.0, [30, 180, 394]),
    ("pyscenedetect/counter.mp4", "adaptive", 3.0, [20]),
    ("pyscenedetect/counter.mp4", "adaptive", 5.0, [20]),
    ("pyscenedetect/counter.mp4", "content", 27.0, []),
    ("pyscenedetect/counter.mp4", "content", 30.0, []),
    ("data-juicer/video1.mp4", "adaptive", 3.0, [144, 237]),
    ("data-juicer/video1.mp4", "content", 27.0, [144, 237]),
    ("data-juicer/video2.mp4", "adaptive", 3.0, []),
    ("data-juicer/video2.mp4", "content", 27.0, []),
    ("moviepy/big_buck_bunny_0_30.webm", "adaptive", 3.0, [31, 139, 283, 376, 551]),
    ("moviepy/big_buck_bunny_0_30.webm", "content", 27.0, [283, 376, 551]),
    ("mmaction2/test.mp4", "adaptive", 3.0, []),
    ("mmaction2/test_video_structuralize.mp4", "adaptive", 3.0, []),
    ("decord/flipping_a_pancake.mkv", "content", 27.0, []),
    ("decord/flipping_a_pancake.mkv", "adaptive", 3.0, []),
    ("moviepy/chaplin.mp4", "adaptive", 3.0, []),
    ("moviepy/video_with_failing_audio.mp4", "adaptive", 3.0, []),
]


def here(path: Path, config: CurationConfig | None = None) -> VideoAnalysis:
    """Decoded in this process: a child costs a second to start."""
    digest, _ = content_hash(str(path))
    return decode_pass({"source_uri": str(path), "source_sha256": digest}, config or profiles.demo())


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 3 s at 16 fps, 64 x 96 px: a block that moves, then one that stands on another ground."""
    frames = []
    for k in range(96):
        frame = np.full((64, 96, 3), (200, 60, 40) if k < 48 else (20, 90, 200), np.uint8)
        left = 4 + k if k < 48 else 30
        frame[20:44, left : left + 24] = 255 - frame[0, 0]
        frames.append(frame)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, frames, 16.0)
    return path


@pytest.mark.parametrize(("name", "detector", "threshold", "cuts"), GOLDENS)
def test_cuts_are_those_peers_publish(
    media: Callable[[str], Path], name: str, detector: Literal["adaptive", "content"], threshold: float, cuts: list[int]
) -> None:
    config = SceneConfig(detectors=(CutDetectorConfig(detector=detector, threshold=threshold),))
    pictures = (frame.picture for frame in decode(str(media(name))))
    small = (SmallCopy(picture, detection_size(picture, config.detection_px)).bgr for picture in pictures)
    assert [cut.frame for cut in find_cuts(small, config)] == cuts


def test_fades_are_those_peers_publish(media: Callable[[str], Path]) -> None:
    """PySceneDetect's ThresholdDetector(12), min_scene_len 15."""
    config = SceneConfig(detectors=(), fade_threshold=12.0)
    pictures = (frame.picture for frame in decode(str(media("pyscenedetect/testvideo.mp4"))))
    small = (SmallCopy(picture, detection_size(picture, config.detection_px)).bgr for picture in pictures)
    assert find_cuts(small, config) == [Cut(15, "fade"), Cut(198, "fade"), Cut(377, "fade")]


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_cuts_of_the_other_of_two_streams(
    media: Callable[[str], Path], detector: Literal["adaptive", "content"]
) -> None:
    """The peer reads stream 0 of this file; we read the better one."""
    threshold = {"adaptive": 3.0, "content": 27.0}[detector]
    config = SceneConfig(detectors=(CutDetectorConfig(detector=detector, threshold=threshold),))
    with av.open(str(media("torchcodec/nasa_13013.mp4"))) as container:
        pictures = container.decode(video=0)
        small = (SmallCopy(picture, detection_size(picture, config.detection_px)).bgr for picture in pictures)
        assert [cut.frame for cut in find_cuts(small, config)] == [127, 202]


def test_clips_of_a_film(film: Path) -> None:
    analysis = here(film)
    assert analysis.video["status"] == "ok"
    assert (analysis.video["num_frames"], analysis.video["num_clips"]) == (96, 2)
    first, second = (clip.row for clip in analysis.clips)
    assert (first["start_s"], first["end_s"], first["cut_in"], first["cut_out"]) == (0.0, 3.0, "start", "hard")
    assert (second["start_frame"], second["num_frames"], second["cut_out"]) == (48, 48, "end")
    assert float(str(first["motion_score"])) > 0.0075 > float(str(second["motion_score"]))
    for clip in analysis.clips:
        assert clip.frames.shape == (3, 64, 96, 3)
        assert clip.grid.shape == (4, 64, 96, 3)
        assert clip.frames.nbytes + clip.grid.nbytes <= 2_000_000


def test_rows_fit_the_schema_and_frames_are_of_their_clip(film: Path) -> None:
    analysis = here(film)
    table = pa.Table.from_pylist([clip.row for clip in analysis.clips], schema=schema.clips_schema(8))
    assert table["clip_id"].null_count == 0
    for clip, ground in zip(analysis.clips, ((200, 60, 40), (20, 90, 200)), strict=True):
        corners = clip.frames[:, 2:10, 40:60].reshape(-1, 3)
        assert np.abs(corners - np.array(ground)).max() < 25
        times_s = np.array(clip.row["frame_times_s"] + clip.row["grid_times_s"])  # type: ignore[operator]
        assert ((times_s >= clip.row["start_s"]) & (times_s < clip.row["end_s"])).all()


def test_ids_are_stable(film: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name.mp4"
    copy.write_bytes(film.read_bytes())
    ids = [[c.row["clip_id"] for c in here(p).clips] for p in (film, copy)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_long_scenes_are_split(film: Path) -> None:
    config = profiles.demo()
    config = dataclasses.replace(config, scenes=dataclasses.replace(config.scenes, max_clip_s=1.25))
    rows = [clip.row for clip in here(film, config).clips]
    assert [row["num_frames"] for row in rows] == [20, 20, 8, 20, 20, 8]
    assert [row["cut_out"] for row in rows] == ["max_length", "max_length", "hard", "max_length", "max_length", "end"]
    assert all(rows[k]["end_pts"] == rows[k + 1]["start_pts"] for k in range(5))


@pytest.mark.parametrize(("name", "content"), [("zero.mp4", b""), ("text.mp4", b"words\n" * 99), ("gone.mp4", None)])
def test_bad_files_are_failed_rows(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    video = analyse_video(str(tmp_path / name), profiles.demo()).video
    assert video["status"] == "failed"
    assert video["error_stage"] == ("read" if content is None else "decode")
    assert "\n" not in str(video["error_message"])


def test_decoding_time_is_limited(film: Path) -> None:
    config = dataclasses.replace(profiles.demo(), decode=DecodeConfig(time_limit_s=0.0))
    video = here(film, config).video
    assert (video["status"], video["error_type"]) == ("failed", "VideoDecodeError")


def test_child_process_gives_the_same_answer(film: Path) -> None:
    inside, outside = here(film), analyse_video(str(film), profiles.demo())
    assert [clip.row for clip in inside.clips] == [clip.row for clip in outside.clips]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(inside.clips, outside.clips, strict=True))


def test_worker_survives_a_crash_and_a_hang() -> None:
    crashing = KillableWorker(os._exit, time_limit_s=30.0, memory_limit_bytes=8 << 30)
    with pytest.raises(WorkerDiedError, match="exit code 7"):
        crashing.call(7)
    hanging = KillableWorker(time.sleep, time_limit_s=0.5, memory_limit_bytes=8 << 30)
    assert hanging.call(0.0) is None
    with pytest.raises(WorkerDiedError, match=r"within 0\.5 s"):
        hanging.call(60.0)
    assert hanging.call(0.0) is None
    hanging.stop()


@pytest.mark.slow
def test_every_file_ends_in_exactly_one_status(media: Callable[[str], Path]) -> None:
    files = sorted(path for path in media(".").rglob("*") if path.is_file())
    analyses: dict[Path, VideoAnalysis] = {path: analyse_video(str(path), profiles.demo()) for path in files}
    statuses = Counter(str(analysis.video["status"]) for analysis in analyses.values())
    assert sum(statuses.values()) == len(files)
    assert set(statuses) == {"ok", "empty", "failed"}
    for path, analysis in analyses.items():
        if path.suffix in (".mp4", ".mkv", ".mov", ".avi", ".webm"):
            expected = "failed" if path.name in ("corrupted.mp4", "truncated_60pct_structuralize.mp4") else "ok"
            assert analysis.video["status"] == expected, path
        assert (analysis.video["status"] == "ok") == bool(analysis.clips), path
