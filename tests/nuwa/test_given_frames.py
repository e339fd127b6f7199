"""Given pictures: which frame each becomes, their latents, and one line for what cannot be given."""

import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.given_frames import (
    GivenClip,
    check_clips,
    encode_clips,
    image_clips,
    storyboard_clips,
    video_clip,
)
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.pictures import Picture, Size, VideoPictures, read_image, read_video
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.story import GivenImage
from nuwa.generate.video_files import write_video
from nuwa.generate.windows import Sampling, WindowSampler
from nuwa.hierarchy import NuwaError
from tests.nuwa import stack

SIZE = Size(16, 16)


@pytest.fixture(scope="module")
def pipe() -> NuwaXLPipeline:
    return stack.build()


def noise_picture(seed: int, height: int = 16, width: int = 16) -> Picture:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def save(folder: Path, *names: str) -> None:
    """Images of one grey each: 10, 20, 30 …"""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        Image.new("RGB", (16, 16), (10 * number,) * 3).save(folder / name)


def test_a_story_gives_images_at_times_and_at_frames(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png")
    given = [GivenImage(tmp_path / "a.png", at_s=1.4), GivenImage(tmp_path / "b.png", frame=3)]
    clips = image_clips(given, 8, SIZE)
    assert [(clip.first, int(clip.pictures[0][0, 0, 0])) for clip in clips] == [(11, 10), (3, 20)]


def test_a_storyboard_spreads_over_the_keyframes_in_the_order_of_names(tmp_path: Path) -> None:
    save(tmp_path / "board", "c.png", "a.png", "b.png")
    (tmp_path / "board/notes.txt").write_text("not an image")

    def places(frames: int, depth: int) -> list[tuple[int, int]]:
        clips = storyboard_clips(tmp_path / "board", frames, 5, depth, SIZE)
        return [(clip.first, int(clip.pictures[0][0, 0, 0])) for clip in clips]

    assert places(17, 2) == [(0, 20), (8, 30), (16, 10)]
    assert places(15, 2) == [(0, 20), (8, 30), (12, 10)]  # frame 16 is cut off
    assert places(20, 3) == [(0, 20), (8, 30), (16, 10)]  # the global window has but 0 and 16, so level 1


def test_a_storyboard_may_name_its_frames(tmp_path: Path) -> None:
    save(tmp_path, "frame-000012.png", "frame_3.jpg", "frame7.png")
    assert [clip.first for clip in storyboard_clips(tmp_path, 17, 5, 2, SIZE)] == [12, 7, 3]
    save(tmp_path / "board", "Frame-000015.PNG", "frame-2.png")
    assert [clip.first for clip in storyboard_clips(tmp_path / "board", 17, 5, 2, SIZE)] == [15, 2]


def test_a_storyboard_of_numbers_and_names_is_refused(tmp_path: Path) -> None:
    """To spread them all would put frame 15 elsewhere without a word."""
    save(tmp_path, "b.png", "c.png", "frame-000015.png")
    with pytest.raises(NuwaError, match=r"frame-000015\.png with a frame number and b\.png without; number all"):
        storyboard_clips(tmp_path, 31, 16, 2, SIZE)


def test_a_video_is_read_at_the_frame_rate_asked_for(tmp_path: Path) -> None:
    greys = [np.full((16, 16, 3), 20 * n, np.uint8) for n in range(12)]
    write_video(tmp_path / "a.mp4", greys, 12)

    def shown(fps: float) -> list[int]:
        return [round(float(picture.mean()) / 20) for picture in read_video(tmp_path / "a.mp4", fps, SIZE)]

    assert shown(12) == list(range(12))
    assert shown(6) == [0, 2, 4, 6, 8, 10]
    assert shown(24) == [n // 2 for n in range(24)]
    assert shown(5) == [0, 2, 4, 7, 9]  # what is on the screen at 0, 0.2, 0.4, 0.6, 0.8 s
    assert len(list(read_video(tmp_path / "a.mp4", 12, SIZE, most=5))) == 5


def test_a_video_is_read_when_its_pictures_are_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [np.full((16, 16, 3), 20 * n, np.uint8) for n in range(12)], 12)
    pictures = VideoPictures(tmp_path / "a.mp4", 12, SIZE)
    assert len(pictures) == 12
    for number in (0, 1, 1, 7, 3, 11, 11, 0):
        assert round(float(pictures[number].mean()) / 20) == number
    assert [round(float(picture.mean()) / 20) for picture in pictures] == list(range(12))
    for number in (12, -1):
        with pytest.raises(IndexError):
            pictures[number]
    write_video(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 5, 12)
    with pytest.raises(NuwaError, match=r"a\.mp4 has become shorter"):
        list(pictures)


def test_memory_does_not_grow_with_the_video_that_is_extended(
    pipe: NuwaXLPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that exist at once, from the file to the frames of every window: two windows of 5, of 60."""
    alive, most, read = 0, 0, 0
    fitted = Size.fitted

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(self: Size, image: Image.Image, name: str) -> Picture:
        nonlocal alive, most, read
        picture = fitted(self, image, name)
        weakref.finalize(picture, gone)
        alive, read = alive + 1, read + 1
        most = max(most, alive)
        return picture

    write_video(tmp_path / "a.mp4", (noise_picture(n) for n in range(60)), 8)
    expected = [picture.copy() for picture in read_video(tmp_path / "a.mp4", 8, SIZE)]
    monkeypatch.setattr(Size, "fitted", counted)
    clip = video_clip(tmp_path / "a.mp4", 99, 8, SIZE)
    assert clip.describe() == GivenClip(0, tuple(expected), tmp_path / "a.mp4").describe()
    given = encode_clips(pipe, [clip])
    assert read == 3 * 60
    for number in [*range(0, 60, 16), *range(0, 60, 4), *range(60)]:  # as windows of three levels take them
        shown = torch.from_numpy(expected[number]).permute(2, 0, 1).float() / 127.5 - 1
        assert torch.equal(given[number].pixels, shown)
    assert read <= 6 * 60
    assert most <= 10


def test_a_clip_is_encoded_as_training_encodes_windows(pipe: NuwaXLPipeline) -> None:
    """12 frames with windows of 5: 0–4, 4–8, and the last one moved back to 7–11; frames keep their first latent."""
    pictures = tuple(noise_picture(n) for n in range(12))
    given = encode_clips(pipe, [GivenClip(3, pictures, Path("a.mp4"))])
    assert sorted(given) == list(range(3, 15))
    assert len(given) == 12
    assert 2 not in given
    video = torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2).float() / 127.5 - 1
    for window, kept in ((range(5), range(5)), (range(4, 9), range(5, 9)), (range(7, 12), range(9, 12))):
        with torch.no_grad():
            latents = pipe.vae.encode(video[None, :, window]).mode()[0] * pipe.vae.config.scaling_factor
        for frame in kept:
            torch.testing.assert_close(given[3 + frame].latent, latents[:, frame - window[0]], rtol=0, atol=1e-6)
            assert torch.equal(given[3 + frame].pixels, video[:, frame])


def test_an_image_is_encoded_as_a_window_in_which_it_stands_still(pipe: NuwaXLPipeline) -> None:
    picture = noise_picture(0)
    given = encode_clips(pipe, [GivenClip(7, (picture,), Path("a.png"))])
    still = (torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1)[None, :, None].expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        latent = pipe.vae.encode(still).mode()[0, :, 0] * pipe.vae.config.scaling_factor
    torch.testing.assert_close(given[7].latent, latent, rtol=0, atol=1e-6)


def test_given_frames_are_in_the_video_bitwise_and_change_what_lies_between(pipe: NuwaXLPipeline) -> None:
    clips = [GivenClip(0, (noise_picture(0),), Path("a.png")), GivenClip(8, (noise_picture(1),), Path("b.png"))]
    given = encode_clips(pipe, clips)
    executor = LocalExecutor(WindowSampler(pipe, Sampling(steps=2)))
    prompts = ["a red star"] * 17
    latents = generate_latents(frame_plan(prompts, 5, given=given), executor)
    free = generate_latents(frame_plan(prompts, 5), executor)
    for frame in (0, 8):
        assert torch.equal(latents[:, frame], given[frame].latent)
    assert not torch.allclose(latents[:, 4], free[:, 4], atol=1e-3)


def test_pictures_of_another_size_are_refused_or_cropped(tmp_path: Path) -> None:
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    with pytest.raises(NuwaError, match=r"wide\.png is 32×16 px, the model makes 16×16; .*--fit crop"):
        read_image(tmp_path / "wide.png", SIZE)
    assert (read_image(tmp_path / "wide.png", Size(16, 16, "crop")) == 200).all()
    write_video(tmp_path / "wide.mp4", [wide] * 3, 8)
    with pytest.raises(NuwaError, match=r"wide\.mp4 is 32×16 px"):
        list(read_video(tmp_path / "wide.mp4", 8, SIZE))
    assert next(read_video(tmp_path / "wide.mp4", 8, Size(8, 16, "crop"))).shape == (8, 16, 3)


def test_images_of_any_kind_become_rgb_and_upright(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (16, 16), (1, 2, 3, 255)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "grey.png", SIZE).shape == (16, 16, 3)
    assert (read_image(tmp_path / "alpha.png", SIZE) == (1, 2, 3)).all()
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to show
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    assert (read_image(tmp_path / "turned.png", SIZE)[:8] == 255).all()


def test_greys_of_16_bits_are_scaled(tmp_path: Path) -> None:
    values = np.zeros((16, 16), np.uint16)
    values[:4], values[4:8], values[8:12] = 20000, 65535, 128
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values).save(tmp_path / "grey.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "wide.tif")
    for name in ("grey.png", "grey.tif", "wide.tif"):
        with Image.open(tmp_path / name) as image:
            assert image.mode.startswith("I")
        picture = read_image(tmp_path / name, SIZE)
        assert picture.shape == (16, 16, 3)
        assert [int(picture[row].mean()) for row in (0, 4, 8, 12)] == [78, 255, 0, 0]
    Image.fromarray(np.full((16, 16), 70000, np.int32)).save(tmp_path / "wide.tif")
    Image.fromarray(np.full((16, 16), 0.5, np.float32)).save(tmp_path / "float.tif")
    for name in ("wide.tif", "float.tif"):
        with pytest.raises(
            NuwaError, match=rf"{name.replace('.', '[.]')} cannot be read \(its values, .* 8 or 16 bits"
        ):
            read_image(tmp_path / name, SIZE)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = tmp_path / "whole.png"
    Image.fromarray(noise_picture(0)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:300])
    for name in ("nothing.png", "text.png", "cut.png"):
        with pytest.raises(NuwaError, match=name.replace(".", r"\.")):
            read_image(tmp_path / name, SIZE)
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name in ("nothing.mp4", "text.mp4", "sound.mp4"):
        with pytest.raises(NuwaError, match=name.replace(".", r"\.")):
            list(read_video(tmp_path / name, 8, SIZE))


def test_storyboards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match="there is no storyboard folder"):
        storyboard_clips(tmp_path / "nothing", 17, 5, 2, SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NuwaError, match="has no image"):
        storyboard_clips(tmp_path / "empty", 17, 5, 2, SIZE)
    save(tmp_path / "many", *(f"{letter}.png" for letter in "abcdef"))
    with pytest.raises(NuwaError, match="has 6 images for 5 frames"):
        storyboard_clips(tmp_path / "many", 5, 5, 1, SIZE)


def test_places_outside_the_video_and_places_taken_twice_are_refused(tmp_path: Path) -> None:
    picture = noise_picture(0)
    for first in (17, 99):
        with pytest.raises(NuwaError, match=rf"a\.png is given for frame {first}, but the video has frames 0 to 16"):
            check_clips([GivenClip(first, (picture,), Path("a.png"))], 17)
    clips = [GivenClip(4, (picture,), Path("b.png")), GivenClip(0, (picture,) * 5, Path("a.mp4"))]
    with pytest.raises(NuwaError, match=r"a\.mp4 and b\.png are both given for frame 4"):
        check_clips(clips, 17)
    save(tmp_path, "late.png")
    with pytest.raises(NuwaError, match=r"late\.png is given for frame 10000001, but"):
        check_clips(image_clips([GivenImage(tmp_path / "late.png", at_s=1e308)], 60, SIZE), 17)
    write_video(tmp_path / "a.mp4", [picture] * 17, 8)
    with pytest.raises(NuwaError, match="fills all 17 frames at 8 fps; ask for more --frames"):
        video_clip(tmp_path / "a.mp4", 17, 8, SIZE)
    assert len(video_clip(tmp_path / "a.mp4", 18, 8, SIZE).pictures) == 17


def test_the_record_tells_pictures_apart() -> None:
    one, other = (GivenClip(0, (noise_picture(n),) * 2, Path("a.mp4")).describe() for n in range(2))
    assert (one["source"], one["first"], one["last"]) == ("a.mp4", 0, 1)
    assert one["pixels_sha256"] != other["pixels_sha256"]
