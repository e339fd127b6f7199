"""Videos found, and decoded at one size, rate and length: frames whose numbers can be read from their grey."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nuwa.evaluate.decoding import Clip, Format, choose_format, fit, parts, prompts_of, read_clips, spread
from nuwa.evaluate.sources import Footage, Source, UnreadableVideoError, find_footage
from nuwa.hierarchy import NuwaError
from tests.nuwa.tiny_dataset import brightness, write_dataset


def grey(number: int) -> int:
    return 20 + 8 * number


def write_video(path: Path, frames: int, size: tuple[int, int] = (32, 32), fps: int = 8) -> Path:
    """Frame `n` is grey(n) all over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            image = np.full((*size, 3), grey(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(clip: Clip) -> list[int]:
    return [round((float(frame.mean()) - 20) / 8) for frame in clip.frames]


def formatted(**changes: float) -> Format:
    return Format(**({"height": 32, "width": 32, "fps": 8.0, "frames": 4} | changes))  # type: ignore[arg-type]


def the_only(folder: Path) -> Source:
    (source,) = find_footage(folder, "--real").sources
    return source


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])  # Matroska does not tell the number of frames
def test_a_file_is_told_without_decoding(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "deep" / name, 10, (32, 48))
    source = the_only(tmp_path)
    assert (source.height, source.width, source.fps, source.num_frames) == (32, 48, 8.0, 10)
    assert source.prompts == ()


def test_the_record_beside_a_video_gives_prompts_and_windows(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 3)
    record = {"prompts": ["a", "b", "c"], "window_length": 3, "depth": 2, "fps": 8}
    (tmp_path / "a.json").write_text(json.dumps(record))
    source = the_only(tmp_path)
    assert (source.prompts, source.window_length, source.depth) == (("a", "b", "c"), 3, 2)


def test_clips_follow_each_other_and_a_rest_is_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 11)
    source, wanted = the_only(tmp_path), formatted()
    assert parts(source, wanted, whole=False) == 2
    assert parts(source, wanted, whole=True) == 1
    assert [numbers(clip) for clip in read_clips(source, [0, 1], wanted)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [numbers(clip) for clip in read_clips(source, [1], wanted)] == [[4, 5, 6, 7]]


@pytest.mark.parametrize(("fps", "expected"), [(4.0, [0, 2, 4, 6]), (8.0, [0, 1, 2, 3]), (3.0, [0, 2, 5, 8])])
def test_a_lower_rate_shows_what_is_on_the_screen_at_its_times(tmp_path: Path, fps: float, expected: list[int]) -> None:
    write_video(tmp_path / "a.mp4", 12)
    record = {"prompts": [f"frame {n}" for n in range(12)]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    source, wanted = the_only(tmp_path), formatted(fps=fps)
    (clip,) = list(read_clips(source, [0], wanted))
    assert numbers(clip) == expected
    assert clip.prompts == tuple(f"frame {n}" for n in expected) == prompts_of(source, 0, wanted)


def test_frames_are_cut_to_the_aspect_and_averaged_down() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200  # the middle square
    assert (fit(image, 20, 20) == 200).all()
    board = np.kron(np.indices((20, 20)).sum(0) % 2, np.ones((2, 2)))[..., None].repeat(3, 2).astype(np.uint8) * 200
    assert (fit(board, 10, 10) == 100).all()
    assert fit(board, 40, 40) is board


def test_a_folder_of_images_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (grey(number),) * 3).save(tmp_path / "film" / f"frame-{number:06d}.png")
    (tmp_path / "film.json").write_text(json.dumps({"fps": 4, "prompts": ["x"] * 4}))
    source = the_only(tmp_path)
    assert (source.fps, source.num_frames, source.prompts) == (4.0, 4, ("x",) * 4)
    assert numbers(next(read_clips(source, [0], formatted(fps=4.0)))) == [0, 1, 2, 3]
    (tmp_path / "film" / "frame-000001.png").unlink()
    with pytest.raises(NuwaError, match="lacks some of"):
        find_footage(tmp_path, "--real")


def test_runs_of_a_dataset_have_the_captions_of_their_clips(tmp_path: Path) -> None:
    found = find_footage(write_dataset(tmp_path, [12, 9]), "--real")
    assert found.kind == "runs of a dataset"
    assert [source.num_frames for source in found.sources] == [12, 9]
    clip = list(read_clips(found.sources[0], [0, 1], formatted(height=16, width=16)))[1]
    assert clip.prompts == ("a red star in scene 0",) * 2 + ("a red star in scene 1",) * 2
    assert [round(float(frame[-1].mean())) for frame in clip.frames] == pytest.approx(
        [brightness(n) for n in range(4, 8)], abs=3
    )


def test_real_clips_are_chosen_evenly(tmp_path: Path) -> None:
    sources = tuple(
        Source(path=tmp_path / name, height=32, width=32, fps=8.0, num_frames=count)
        for name, count in (("a", 9), ("b", 3), ("c", 17))
    )
    footage = Footage(tmp_path, "", sources, ())
    chosen = [(source.path.name, taken) for source, taken in spread(footage, formatted(), None)]
    assert chosen == [("a", [0, 1]), ("c", [0, 1, 2, 3])]
    chosen = [(source.path.name, taken) for source, taken in spread(footage, formatted(), 3)]
    assert chosen == [("a", [0]), ("c", [0, 3])]


def test_damaged_videos_are_named_and_the_others_stay(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", 4)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "_unfinished.mp4").write_bytes(b"half")
    found = find_footage(tmp_path, "--real")
    assert [source.path.name for source in found.sources] == ["good.mp4"]
    assert [name for name, _ in found.skipped] == ["bad.mp4"]
    assert "cannot be decoded" in found.skipped[0][1]


def test_files_without_pictures_are_told(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "empty.mkv", 4).read_bytes()
    (tmp_path / "empty.mkv").write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    write_video(tmp_path / "good.mp4", 2)
    skipped = dict(find_footage(tmp_path, "--real").skipped)
    assert set(skipped) == {"empty.mkv", "sound.mp4"}
    assert "cannot be decoded" in skipped["empty.mkv"]
    assert "no video stream" in skipped["sound.mp4"]


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 8)
    whole = the_only(tmp_path)
    promised = Source(**(vars(whole) | {"num_frames": 12}))
    with pytest.raises(UnreadableVideoError, match="ends before frame 12"):
        list(read_clips(promised, [0, 1, 2], formatted()))


def sources_of(*shapes: tuple[int, int, float, int]) -> Sequence[Source]:
    return [
        Source(path=Path(f"{n}.mp4"), height=h, width=w, fps=fps, num_frames=count)
        for n, (h, w, fps, count) in enumerate(shapes)
    ]


def test_format_is_that_of_the_generated_videos() -> None:
    wanted = choose_format(sources_of((32, 48, 8, 40), (32, 48, 8, 33)), sources_of((64, 96, 24, 99)), None, None, None)
    assert wanted == Format(height=32, width=48, fps=8, frames=33)
    wanted = choose_format(sources_of((32, 48, 8, 40)), sources_of((64, 96, 24, 99)), (16, 24), 4.0, 10)
    assert wanted == Format(height=16, width=24, fps=4.0, frames=10)


@pytest.mark.parametrize(
    ("generated", "real", "line"),
    [
        (
            [(32, 32, 8, 9), (48, 32, 8, 9)],
            [(64, 64, 8, 9)],
            r"size .* differs: \(32, 32\) in 0.mp4, \(48, 32\) in 1.mp4",
        ),
        ([(32, 32, 8, 9), (32, 32, 6, 9)], [(64, 64, 8, 9)], r"rate .* differs: 8 in 0.mp4, 6 in 1.mp4; give --fps 6"),
        ([(32, 32, 8, 9)], [(16, 24, 8, 9)], "16x24 px .* would be enlarged to 32x32; give --size 16 16"),
        ([(32, 32, 8, 9)], [(64, 64, 4, 9)], "has 4 frames a second, not 8; give --fps 4"),
        ([(32, 32, 8, 1)], [(64, 64, 8, 9)], "up to 1 frames"),
    ],
)
def test_videos_that_cannot_be_compared_are_told(
    generated: list[tuple[int, int, float, int]], real: list[tuple[int, int, float, int]], line: str
) -> None:
    with pytest.raises(NuwaError, match=line):
        choose_format(sources_of(*generated), sources_of(*real), None, None, None)


def test_records_that_are_damaged_are_told(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(NuwaError, match=r"record .*a\.json cannot be read"):
        find_footage(tmp_path, "--generated")
    (tmp_path / "a.json").write_text('{"prompts": 3}')
    with pytest.raises(NuwaError, match="no list of prompts"):
        find_footage(tmp_path, "--generated")
