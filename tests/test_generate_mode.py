"""pipelines.generate with a space-time U-Net: every mode from files to a file and its record."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa.generate import clip_job, one_pass
from tests.clip_commands import MODES, command, given_video, pictures
from tests.generated import run
from tests.nuwa.clip_stack import LENGTH, SIZE

LATENTS = pytest.param("latents", marks=pytest.mark.slow)  # the same with an autoencoder, to keep the default run short
FRAMES = {"inpaint": 6, "outpaint": 6, "extend": 11}


def expected(mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames (t H W 3) that are right where they are known, and where they are (t H W)."""
    mask, count = np.asarray(Image.open("mask.png")) > 0, FRAMES.get(mode, LENGTH)
    shown, known = np.zeros((count, SIZE, SIZE, 3), np.uint8), np.zeros((count, SIZE, SIZE), bool)
    match mode:
        case "image" | "cinemagraph":
            shown[:], known[0] = np.asarray(Image.open("image.png")), True
            if mode == "cinemagraph":
                known |= ~np.stack([np.roll(mask, frame, 1) for frame in range(count)])
        case "inpaint":
            shown, known[:] = given_video("video.mp4"), ~mask
        case "outpaint":
            shown[:, :8, 4:12], known[:, :8, 4:12] = given_video("small.mp4"), True
        case "extend":
            shown[:6], known[:6] = given_video("video.mp4"), True
    return shown, known


@pytest.mark.parametrize("model", ["pixels", LATENTS])
@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_makes_a_clip_that_keeps_what_is_known(clip_folder: Path, mode: str, model: str) -> None:
    assert run(command("--mode", mode, *MODES[mode].split(), model=model)) == 0
    shown, record = pictures(clip_folder / "out"), json.loads((clip_folder / "out.json").read_text())
    wanted, known = expected(mode)
    assert shown.shape == wanted.shape
    assert (record["mode"], record["num_frames"]) == (mode, len(shown))
    assert [given["role"] for given in record["given"]] == [
        word[2:] for word in MODES[mode].split() if word in ("--image", "--video", "--mask")
    ]
    error = np.abs(shown.astype(int) - wanted)[known]
    told = record["known_pixels"]
    assert told["share"] == pytest.approx(known.mean())
    assert told["most_error"] == error.max(initial=0)
    assert told["mean_error"] == pytest.approx(error.mean() if known.any() else 0, abs=1e-4)
    assert (told["most_error"] == 0) == (model == "pixels" or mode == "text")
    assert (shown[~known] != wanted[~known]).mean() > 0.9
    assert not [path for path in clip_folder.iterdir() if path.name.startswith("_")]


def test_the_command_in_the_record_makes_the_same_clip(clip_folder: Path) -> None:
    assert run(command("--mode", "outpaint", *MODES["outpaint"].split(), "--seed", "3")) == 0
    line = shlex.split(json.loads((clip_folder / "out.json").read_text())["command"])
    assert line[:3] == ["python", "-m", "pipelines.generate"]
    assert run([word if word != "out" else "again" for word in line[3:]]) == 0
    np.testing.assert_array_equal(pictures(clip_folder / "again"), pictures(clip_folder / "out"))


def test_known_pixels_of_a_model_of_latents_are_put_back_where_that_is_asked_for(clip_folder: Path) -> None:
    words = ["--mode", "inpaint", *MODES["inpaint"].split()]
    assert run(command(*words, model="latents", output="decoded")) == 0
    assert run(command(*words, "--put-back", model="latents", output="exact")) == 0
    hole = np.asarray(Image.open("mask.png")) == 0
    video, decoded, exact = given_video("video.mp4"), pictures(clip_folder / "decoded"), pictures(clip_folder / "exact")
    np.testing.assert_array_equal(exact[:, hole], video[:, hole])
    np.testing.assert_array_equal(exact[:, ~hole], decoded[:, ~hole])
    errors = [json.loads((clip_folder / f"{name}.json").read_text())["known_pixels"] for name in ("decoded", "exact")]
    off = np.abs(decoded.astype(int) - video)[:, hole]
    assert [error["most_error"] for error in errors] == [off.max()] * 2
    assert errors[0]["mean_error"] == pytest.approx(off.mean(), abs=1e-4)
    assert [error["put_back"] for error in errors] == [False, True]


def test_an_odd_number_of_frames_is_padded_and_one_line_says_so(
    clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command("--frames", "5")) == 0
    assert (
        "5 frames by one pass, mode text; the network made 8, a multiple of 4; the rest is not shown"
        in capsys.readouterr().out
    )
    assert len(pictures(clip_folder / "out")) == 5
    assert json.loads((clip_folder / "out.json").read_text())["made_frames"] == 8


def test_padding_of_a_model_of_latents_is_never_shown(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the network makes of the padding, the frames asked for are the same, and no others."""
    words = ["--mode", "image", "--image", "image.png", "--frames", "5"]
    assert run(command(*words, model="latents")) == 0
    real = one_pass.denoise

    def spoiled(*inputs):  # type: ignore[no-untyped-def]
        latents = real(*inputs).clone()
        assert latents.shape[2] == 8
        latents[:, :, 5:] = 1e3
        return latents

    monkeypatch.setattr(one_pass, "denoise", spoiled)
    assert run(command(*words, model="latents", output="spoiled")) == 0
    shown = pictures(clip_folder / "out")
    assert shown.shape == (5, SIZE, SIZE, 3)
    np.testing.assert_array_equal(pictures(clip_folder / "spoiled"), shown)
    record = json.loads((clip_folder / "out.json").read_text())
    assert (record["num_frames"], record["made_frames"]) == (5, 8)


def test_a_story_gives_every_frame_its_prompt(clip_folder: Path) -> None:
    words = command("--story", "story.yaml", "--mode", "image", "--image", "image.png")
    assert run([word for word in words if word not in ("--prompt", "a red star")]) == 0
    record = json.loads((clip_folder / "out.json").read_text())
    assert record["prompts"] == ["a red star"] * 4 + ["a blue circle"] * 6
    assert len(pictures(clip_folder / "out")) == 10


def test_memory_is_asked_for_the_frames_that_are_made(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A story of ten frames, memory for eight: a video of six is painted into all the same."""
    pages = clip_job.os.sysconf("SC_PAGE_SIZE") * clip_job.os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(clip_job, "_HELD_PER_PIXEL", pages // (8 * SIZE * SIZE))
    words = ["--model", "pixels", "--story", "story.yaml", "--steps", "1", "--output", "out"]
    inpaint = [*words, "--mode", "inpaint", *MODES["inpaint"].split()]
    for refused, frames in ((words, 10), ([*inpaint, "--frames", "9"], 9)):
        assert run(refused) == 2
        assert f"a clip of {frames} frames of 16×16 px takes more than" in capsys.readouterr().err
    assert run(inpaint) == 0
    assert len(pictures(clip_folder / "out")) == 6


def test_pictures_of_another_size_are_scaled_or_cropped_where_that_is_asked_for(clip_folder: Path) -> None:
    large = np.zeros((64, 96, 3), np.uint8)
    large[:, 48:] = 200
    Image.fromarray(large).save("large.png")
    Image.fromarray(large[:, 16:80]).save("square.png")
    Image.fromarray(large).convert("L").point(lambda grey: 255 if grey else 0).save("half.png")
    assert run(command("--mode", "image", "--image", "large.png", "--fit", "crop", output="cropped")) == 0
    assert run(command("--mode", "image", "--image", "square.png", "--fit", "scale", output="scaled")) == 0
    np.testing.assert_array_equal(pictures(clip_folder / "cropped")[0], pictures(clip_folder / "scaled")[0])
    words = ["--mode", "cinemagraph", "--image", "large.png", "--mask", "half.png", "--fit", "crop"]
    assert run(command(*words, output="moves")) == 0
    shown = pictures(clip_folder / "moves")
    assert (shown[:, :, :8] == shown[:1, :, :8]).all()  # the mask is cropped as its image is
    assert (shown[1:, :, 8:] != shown[:1, :, 8:]).mean() > 0.9


def test_a_prompt_alone_works_for_nuwa_xl_too(clip_folder: Path) -> None:
    assert run(["--model", "nuwa", "--prompt", "a red star", "--output", "out", "--steps", "1"]) == 0
    assert len(pictures(clip_folder / "out")) == 5
    assert set(json.loads((clip_folder / "out.json").read_text())["prompts"]) == {"a red star"}
