"""Clip edges in presentation time on files whose times are anything but k / fps, against known truth."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from curation import profiles
from curation.analyse import VideoAnalysis
from curation.config import CurationConfig
from curation.decode_config import CutDetectorConfig, SceneConfig
from curation.video import decode, probe
from tests.curation.filmed import analysed, pack, shot

B_FRAMES = {"crf": "10", "bf": "3", "g": "50", "b-adapt": "0"}


def edges(analysis: VideoAnalysis) -> list[tuple[float, float]]:
    assert analysis.video["status"] == "ok", analysis.video
    return [(float(str(clip.row["start_s"])), float(str(clip.row["end_s"]))) for clip in analysis.clips]


def uneven_ms(num: int) -> list[int]:
    steps = np.random.default_rng(3).choice([17, 33, 40, 100, 250], num - 1)
    return [0, *np.cumsum(steps).tolist()]


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.mov", "x.webm"])
def test_variable_rate(tmp_path: Path, name: str) -> None:
    times_ms = uneven_ms(70)
    codec, options = ("libvpx", {"b": "2M"}) if name.endswith("webm") else ("libx264", B_FRAMES)
    path = pack(tmp_path / name, shot(0, 30) + shot(1, 40), times_ms, codec, options)
    (start_s, cut_s), (again_s, end_s) = edges(analysed(path))
    assert (start_s, cut_s, again_s) == pytest.approx((0.0, times_ms[30] / 1000, times_ms[30] / 1000), abs=6e-4)
    assert end_s > times_ms[-1] / 1000


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.avi"])
def test_b_frames(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / name, shot(0, 33) + shot(1, 42), [40 * k for k in range(75)], options=B_FRAMES)
    first, second = edges(analysed(path))
    origin_s = first[0]
    assert np.array([first[1], *second]) - origin_s == pytest.approx([1.32, 1.32, 3.0], abs=1e-3)


def test_edit_list_that_leaves_out_the_first_second(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.mp4", shot(0, 60) + shot(1, 40), [40 * k for k in range(100)], options=B_FRAMES)
    content = bytearray(path.read_bytes())
    entry = content.index(b"elst") + 16
    media_time = int.from_bytes(content[entry : entry + 4], "big")
    timescale = probe(str(path)).time_base.denominator
    content[entry : entry + 4] = (media_time + timescale).to_bytes(4, "big")
    path.write_bytes(content)
    first, second = edges(analysed(path))
    assert (*first, second[0]) == pytest.approx((0.0, 1.4, 1.4), abs=1e-6)
    assert second[1] == pytest.approx(3.0, abs=0.041)


def test_rotated_pictures_stand_upright(tmp_path: Path) -> None:
    images = shot(0, 30) + shot(1, 30)
    path = pack(tmp_path / "x.mp4", images, [40 * k for k in range(60)])
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(content)
    analysis = analysed(path)
    assert edges(analysis)[0][1] == pytest.approx(1.2)
    first = analysis.clips[0]
    assert (first.row["width"], first.row["height"]) == (64, 96)
    shown = first.frames[0].astype(int)
    index = round(float(str(first.row["frame_times_s"][0])) * 25)  # type: ignore[index]
    assert np.abs(shown - np.rot90(images[index], -1)).mean() < 12


def test_size_that_changes_on_the_way(tmp_path: Path) -> None:
    """The first frame decides the size for all; the change itself is no cut where the picture goes on."""
    path = tmp_path / "x.ts"
    images = shot(0, 80)
    images[40:] = [image.repeat(2, 0).repeat(2, 1) for image in images[40:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        other = av.CodecContext.create("libx264", "w")
        other.height, other.width, other.pix_fmt = 128, 192, "yuv420p"
        other.time_base, other.framerate, other.options = Fraction(1, 25), Fraction(25), {"crf": "10", "bf": "0"}
        for context, part in ((stream.codec_context, range(40)), (other, range(40, 80))):
            for k in [*part, None]:
                picture = None if k is None else av.VideoFrame.from_ndarray(images[k], format="rgb24")
                if picture is not None:
                    picture.pts, picture.time_base = k, Fraction(1, 25)
                for packet in context.encode(picture):
                    packet.stream, packet.time_base = stream, Fraction(1, 25)
                    container.mux(packet)
    sizes = {frame.picture.width for frame in decode(str(path))}
    assert sizes == {96, 192}
    analysis = analysed(path, CurationConfig(scenes=SceneConfig(detectors=(CutDetectorConfig(),))))
    ((start_s, end_s),) = edges(analysis)
    assert end_s - start_s == pytest.approx(3.2, abs=1e-3)
    row = analysis.clips[0]
    assert (row.row["width"], row.row["height"], row.frames.shape) == (96, 64, (3, 64, 96, 3))
    assert row.row["motion_score"] is not None


def test_time_that_jumps_ahead_stays_one_clip_with_its_hole(tmp_path: Path) -> None:
    times_ms = [40 * k + (5000 if k >= 30 else 0) for k in range(60)]
    analysis = analysed(pack(tmp_path / "x.mkv", shot(0, 60), times_ms))
    assert edges(analysis) == [(0.0, pytest.approx(7.4, abs=2e-3))]
    assert analysis.clips[0].row["num_frames"] == 60


def test_time_that_jumps_back_fails_in_one_line(tmp_path: Path) -> None:
    parts = [pack(tmp_path / f"{k}.ts", shot(k, 80), [40 * j for j in range(80)]) for k in range(2)]
    path = tmp_path / "x.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    video = analysed(path).video
    assert video["status"] == "failed"
    assert "jumps back by" in str(video["error_message"])


def test_last_frame_without_duration_and_single_frames(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.mkv", shot(0, 20), [*(40 * k for k in range(19)), 721])
    ((_, end_s),) = edges(analysed(path))
    assert 0.721 < end_s < 0.85
    for name in ("one.mp4", "one.mkv"):
        ((start_s, end_s),) = edges(analysed(pack(tmp_path / name, shot(0, 1), [0])))
        assert 0.0 < end_s - start_s <= 1.0


def test_hours_become_rows_of_bounded_length(tmp_path: Path) -> None:
    """Two hours at one frame in two seconds, a cut after the first."""
    images = itertools.chain(shot(0, 1) * 1800, shot(1, 1) * 1800)
    path = pack(tmp_path / "x.mp4", images, [2000 * k for k in range(3600)])
    found = edges(analysed(path))
    assert len(found) == 240
    assert (3600.0 in [start_s for start_s, _ in found], found[-1][1]) == (True, pytest.approx(7200.0, abs=2.0))
    assert max(end_s - start_s for start_s, end_s in found) <= 30.0 + 1e-6
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))


def test_slow_films_keep_their_cuts_beside_splits_for_length(tmp_path: Path) -> None:
    """One frame in two seconds: a cut is certain only half a minute after it."""
    images = itertools.chain(shot(0, 1) * 40, shot(1, 1) * 40, shot(2, 1) * 40)
    path = pack(tmp_path / "x.mp4", images, [2000 * k for k in range(120)])
    scenes = dataclasses.replace(profiles.demo().scenes, max_clip_s=20.0)
    starts = [start_s for start_s, _ in edges(analysed(path, CurationConfig(scenes=scenes)))]
    assert starts == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0, 140.0, 160.0, 180.0, 200.0, 220.0]
    scenes = dataclasses.replace(scenes, max_clip_s=30.0)
    starts = [start_s for start_s, _ in edges(analysed(path, CurationConfig(scenes=scenes)))]
    assert starts == [0.0, 30.0, 60.0, 80.0, 110.0, 140.0, 160.0, 190.0, 220.0]


@pytest.mark.parametrize(
    "name",
    [
        "torchcodec/var_fps_video.mp4",
        "moviepy/fire2.mp4",
        "decord/video_90.mov",
        "mmaction2/test.avi",
        "moviepy/no_duration.webm",
        "torchcodec/nasa_13013.mp4",
        "pyscenedetect/testvideo.mp4",
    ],
)
def test_real_files_are_covered_from_first_frame_to_last(media: Callable[[str], Path], name: str) -> None:
    times_s = [frame.time_s for frame in decode(str(media(name)))]
    analysis = analysed(media(name))
    found = edges(analysis)
    starts: Sequence[int] = [int(str(clip.row["start_frame"])) for clip in analysis.clips]
    assert [start_s for start_s, _ in found] == [times_s[start] for start in starts]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    assert times_s[-1] < found[-1][1] < times_s[-1] + 0.5
    assert sum(int(str(clip.row["num_frames"])) for clip in analysis.clips) == len(times_s)
