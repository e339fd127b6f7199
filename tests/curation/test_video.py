"""Round trips through real files: times, spans, runs, and what broken files are answered with."""

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from curation.config_error import CurationError
from curation.video import (
    NoVideoError,
    VideoDecodeError,
    content_hash,
    decode,
    num_samples,
    probe,
    read_span,
    write_run,
    write_video,
)


def shade(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def level_of(image: np.ndarray) -> int:
    return round(float(image.mean()))


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 10 fps; frame k is grey 4k."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    assert write_video(path, (shade(4 * k) for k in range(60)), 10.0, crf=1) == 60
    return path


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A variable-rate file and its times in s; frame k is grey 20k."""
    path = tmp_path_factory.mktemp("video") / "uneven.mkv"
    times_s = [0.0, 0.1, 0.5, 0.55, 1.3, 1.4, 2.0, 3.1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for k, time_s in enumerate(times_s):
            picture = av.VideoFrame.from_ndarray(shade(20 * k), format="rgb24")
            picture.pts, picture.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path, times_s


def test_written_video_comes_back(ramp: Path) -> None:
    info = probe(str(ramp))
    assert (info.width, info.height, info.codec, info.fps, info.duration_s) == (48, 32, "h264", 10.0, 6.0)
    frames = list(decode(str(ramp)))
    assert [frame.index for frame in frames] == list(range(60))
    assert [frame.time_s for frame in frames] == pytest.approx([k / 10 for k in range(60)])
    assert max(abs(level_of(frame.image) - 4 * k) for k, frame in enumerate(frames)) <= 3


def test_key_frames_are_no_further_apart_than_asked(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", (shade(k) for k in range(30)), 8.0, gop_frames=8)
    keys = [frame.index for frame in decode(str(tmp_path / "x.mp4")) if frame.picture.key_frame]
    assert keys == [0, 8, 16, 24]


ENCODE = """
import sys
from pathlib import Path
import numpy as np
from curation.video import write_video
draws = np.random.default_rng(0)
frames = np.cumsum(draws.integers(-2, 3, (40, 160, 160, 3)), axis=0).clip(-100, 100) + 128
write_video(Path(sys.argv[1]), (frame.astype(np.uint8) for frame in frames), 8.0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc fills fresh memory as MALLOC_PERTURB_ says")
def test_a_run_file_does_not_depend_on_what_memory_held_before(tmp_path: Path) -> None:
    files = [tmp_path / f"{fill}.mp4" for fill in (1, 170, 255)]
    for path in files:
        environment = os.environ | {"MALLOC_PERTURB_": path.stem}
        subprocess.run([sys.executable, "-c", ENCODE, str(path)], env=environment, check=True)
    assert len({path.read_bytes() for path in files}) == 1


def test_write_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(CurationError, match="even sizes, not 47x32"):
        write_video(tmp_path / "x.mp4", [shade(0, width=47)], 8.0)
    with pytest.raises(CurationError, match="no frames"):
        write_video(tmp_path / "x.mp4", [], 8.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start_s", [0.0, 0.25, 2.0, 3.33])
@pytest.mark.parametrize("fps", [8.0, 10.0, 25.0])
def test_span_shows_the_nearest_previous_frame(ramp: Path, start_s: float, fps: float) -> None:
    end_s = start_s + 2.0
    shown = [round(frame.time_s * 10) for frame in read_span(str(ramp), start_s, end_s, fps)]
    assert len(shown) == num_samples(start_s, end_s, fps) == round(2 * fps)
    assert shown == [int((start_s + k / fps) * 10 + 1e-4) for k in range(len(shown))]


def test_variable_rate_is_sampled_by_time(uneven: tuple[Path, list[float]]) -> None:
    path, times_s = uneven
    assert [frame.time_s for frame in decode(str(path))] == pytest.approx(times_s, abs=2e-3)
    wanted = [max(k for k, t in enumerate(times_s) if t <= n / 4 + 2e-3) for n in range(14)]
    shown = [round(level_of(frame.image) / 20) for frame in read_span(str(path), 0.0, 3.5, 4.0)]
    assert shown == wanted


def test_run_is_constant_rate_at_training_size_and_knows_its_clips(ramp: Path, tmp_path: Path) -> None:
    spans = [(0.5, 2.1), (2.1, 3.0), (3.0, 6.0)]
    run = write_run(str(ramp), spans, tmp_path / "run.mp4", 8.0, (32, 32))
    assert run.num_frames == 44
    assert run.first_frame_of_span == [0, 13, 20]
    frames = list(decode(str(tmp_path / "run.mp4")))
    assert len(frames) == 44
    assert frames[0].image.shape == (32, 32, 3)
    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(1 / 8)
    expected = [4 * int((0.5 + k / 8) * 10 + 1e-4) for k in range(44)]
    assert np.abs(np.array([level_of(frame.image) for frame in frames]) - expected).max() <= 4


def test_run_refuses_gaps_and_emptiness(ramp: Path, tmp_path: Path) -> None:
    with pytest.raises(CurationError, match=r"contiguous, not 1\.000 s then 2\.000 s"):
        write_run(str(ramp), [(0.0, 1.0), (2.0, 3.0)], tmp_path / "run.mp4", 8.0, (32, 32))
    with pytest.raises(CurationError, match="at least one span"):
        write_run(str(ramp), [], tmp_path / "run.mp4", 8.0, (32, 32))


def test_hash_and_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    digest, size = content_hash(str(tmp_path / "x"))
    assert (digest[:8], size) == ("ba7816bf", 3)


def test_any_uri_is_read(ramp: Path) -> None:
    import fsspec

    with fsspec.open("memory://ramp.mp4", "wb") as file:
        file.write(ramp.read_bytes())
    assert sum(1 for _ in decode("memory://ramp.mp4")) == 60


@pytest.mark.parametrize(
    ("name", "content"),
    [("zero.mp4", b""), ("text.mp4", b"Once upon a time\n" * 50), ("noise.mkv", bytes(range(256)) * 20)],
)
def test_files_that_are_no_video_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoDecodeError, match=name) as caught:
        list(decode(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_missing_file_and_sound_without_picture(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match="No such file"):
        list(decode(str(tmp_path / "nothing.mp4")))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for k in range(4):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 48000, 1024 * k
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(NoVideoError, match="no video stream"):
        list(decode(str(tmp_path / "sound.mp4")))


@pytest.mark.parametrize(
    ("name", "size", "frames"),
    [
        ("decord/video_0.mov", (568, 320), 3),
        ("decord/video_90.mov", (320, 568), 3),  # rotated
        ("moviepy/fire2.mp4", (1280, 720), 25),  # rotated by 180 degrees, variable rate
        ("mmaction2/test.mp4", (455, 256), 300),  # 340 px wide, pixels 1024:765
        ("moviepy/no_duration.webm", (1280, 720), 74),
        ("moviepy/-video-with-dash-.mp4", (1, 1), 5),
        ("torchcodec/var_fps_video.mp4", (128, 128), 300),
        ("torchcodec/nasa_13013.mp4", (480, 270), 390),  # the better of two streams
        ("mmaction2/test.avi", (320, 240), 164),  # times out of order in the container
    ],
)
def test_real_files_as_displayed(media: Callable[[str], Path], name: str, size: tuple[int, int], frames: int) -> None:
    uri = str(media(name))
    info = probe(uri)
    assert (info.width, info.height) == size
    decoded = list(decode(uri))
    assert len(decoded) == frames
    assert decoded[0].image.shape == (size[1], size[0], 3)
    assert (np.diff([frame.time_s for frame in decoded]) > 0).all()


def test_damage_inside_a_file_raises_after_the_good_frames(media: Callable[[str], Path]) -> None:
    seen: list[int] = []
    with pytest.raises(VideoDecodeError, match="cannot be decoded"):
        seen.extend(frame.index for frame in decode(str(media("decord/corrupted.mp4"))))
    assert 0 < len(seen) < 40
