"""pipelines.generate with a space-time U-Net: every mode from files to a file, its record, resumed, styled, larger."""

import json
import shlex
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nuwa.generate import large_video
from nuwa.generate.modes import Source, read_given
from nuwa.generate.multidiffusion import cuts
from nuwa.generate.one_pass import ClipSampler
from nuwa.generate.pictures import Size
from nuwa.generate.stunet_pipeline import save_stunet
from nuwa.generate.style_folder import load_style, stored_style
from nuwa.generate.video_files import write_video
from nuwa.hierarchy import NuwaError
from tests.generated import STORY, run, save_model
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import LENGTH, SIZE


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `pixels` and `latents`, both with super-resolution, `nuwa`, the style `style`; and files for the modes."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("pixels", "latents"):
        save_stunet(clip_stack.build(latents=name == "latents", ssr=True), folder / "models" / name)
    save_model(folder / "models/nuwa")
    clip_stack.make_unet(3, seed=5).save_pretrained(folder / "models/style")
    files, rng = folder / "files", np.random.default_rng(0)
    files.mkdir()
    (files / "story.yaml").write_text(STORY)
    Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(files / "image.png")
    for name, size in (("video", SIZE), ("small", 8)):
        write_video(files / f"{name}.mp4", [np.full((size, size, 3), 9 * n, np.uint8) for n in range(6)], 4)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4:10, 2:9] = 255
    Image.fromarray(mask).save(files / "mask.png")
    write_video(files / "mask.mp4", [np.roll(mask, n, 1)[..., None].repeat(3, 2) for n in range(8)], 4)
    Image.new("RGB", (24, SIZE)).save(files / "wide.png")
    Image.new("RGB", (SIZE, SIZE)).save(files / "black.png")
    write_video(files / "short.mp4", [np.full((SIZE, SIZE, 3), 255, np.uint8)] * 3, 4)
    return folder


@pytest.fixture
def here(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that modes read, and the models beside them."""
    folder = tmp_path / "here"
    shutil.copytree(material / "files", folder)
    for model in (material / "models").iterdir():
        (folder / model.name).symlink_to(model)
    monkeypatch.chdir(folder)
    return folder


def command(*words: str, model: str = "pixels", output: str = "out") -> list[str]:
    """Writes PNG images: what is kept can be seen exactly."""
    return ["--model", model, "--prompt", "a red star", "--output", output, "--steps", "1", *words]


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def given_video(name: str) -> np.ndarray:
    with av.open(name) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


MODES = {
    "text": "",
    "image": "--image image.png",
    "inpaint": "--video video.mp4 --mask mask.png",
    "outpaint": "--video small.mp4 --place 4 0 8 8",
    "cinemagraph": "--image image.png --mask mask.mp4",
    "extend": "--video video.mp4 --frames 11",
}
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
def test_every_mode_makes_a_clip_that_keeps_what_is_known(here: Path, mode: str, model: str) -> None:
    assert run(command("--mode", mode, *MODES[mode].split(), model=model)) == 0
    shown, record = pictures(here / "out"), json.loads((here / "out.json").read_text())
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
    assert not [path for path in here.iterdir() if path.name.startswith("_")]


def test_the_command_in_the_record_makes_the_same_clip(here: Path) -> None:
    assert run(command("--mode", "outpaint", *MODES["outpaint"].split(), "--seed", "3")) == 0
    line = shlex.split(json.loads((here / "out.json").read_text())["command"])
    assert line[:3] == ["python", "-m", "pipelines.generate"]
    assert run([word if word != "out" else "again" for word in line[3:]]) == 0
    np.testing.assert_array_equal(pictures(here / "again"), pictures(here / "out"))


def test_known_pixels_of_a_model_of_latents_are_put_back_where_that_is_asked_for(here: Path) -> None:
    words = ["--mode", "inpaint", *MODES["inpaint"].split()]
    assert run(command(*words, model="latents", output="decoded")) == 0
    assert run(command(*words, "--put-back", model="latents", output="exact")) == 0
    hole = np.asarray(Image.open("mask.png")) == 0
    video, decoded, exact = given_video("video.mp4"), pictures(here / "decoded"), pictures(here / "exact")
    np.testing.assert_array_equal(exact[:, hole], video[:, hole])
    np.testing.assert_array_equal(exact[:, ~hole], decoded[:, ~hole])
    errors = [json.loads((here / f"{name}.json").read_text())["known_pixels"] for name in ("decoded", "exact")]
    off = np.abs(decoded.astype(int) - video)[:, hole]
    assert [error["most_error"] for error in errors] == [off.max()] * 2
    assert errors[0]["mean_error"] == pytest.approx(off.mean(), abs=1e-4)
    assert [error["put_back"] for error in errors] == [False, True]


def test_an_odd_number_of_frames_is_padded_and_one_line_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command("--frames", "5")) == 0
    assert (
        "5 frames by one pass, mode text; the network made 8, a multiple of 4; the rest is not shown"
        in capsys.readouterr().out
    )
    assert len(pictures(here / "out")) == 5
    assert json.loads((here / "out.json").read_text())["made_frames"] == 8


def test_a_story_gives_every_frame_its_prompt(here: Path) -> None:
    words = command("--story", "story.yaml", "--mode", "image", "--image", "image.png")
    assert run([word for word in words if word not in ("--prompt", "a red star")]) == 0
    record = json.loads((here / "out.json").read_text())
    assert record["prompts"] == ["a red star"] * 4 + ["a blue circle"] * 6
    assert len(pictures(here / "out")) == 10


def test_the_same_again_is_done_and_other_settings_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command("--mode", "image", "--image", "image.png")
    assert run(words) == 0
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    capsys.readouterr()
    assert run(words) == 0
    assert "is there already, made from the same weights" in capsys.readouterr().out
    for change, line in (
        ("--seed 1", "seed (0 there, 1 asked for)"),
        ("--mode text", "mode (image there, text asked for)"),
        ("--style style", "style"),
        ("--ssr pixels", "super_resolution"),
        ("--put-back", "put_back (False there, True asked for)"),
        ("--prompt other", "prompts"),
        ("--model latents", "weights_sha256"),
    ):
        changed = words if "--mode text" not in change else command()
        assert run([*changed, *change.split()]) == 2
        assert line in capsys.readouterr().err
    Image.new("RGB", (SIZE, SIZE)).save("image.png")
    assert run(words) == 2
    assert "differs in given frames" in capsys.readouterr().err
    assert {path: time for path, time in before.items() if path.name != "image.png"} == {
        path: path.stat().st_mtime_ns for path in here.rglob("*") if path.name != "image.png"
    }


class _StopError(Exception):
    pass


def test_stopped_while_it_is_written_it_goes_on_from_the_sampled_clip(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(output="whole")) == 0
    real = ClipSampler.frames

    def stops(self, latents):
        for number, frame in enumerate(real(self, latents)):
            if number == 3:
                raise _StopError
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(ClipSampler, "frames", stops)
        with pytest.raises(_StopError):
            run(command())
    assert not (here / "out").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ClipSampler, "sample", None)  # it is not sampled again
        assert run(command()) == 0
    np.testing.assert_array_equal(pictures(here / "out"), pictures(here / "whole"))
    assert not [path for path in here.iterdir() if path.name.startswith("_")]


def test_a_style_moves_the_clip_and_its_strength_decides_how_far(here: Path) -> None:
    for name, words in {"plain": "", "none": "--style style --style-strength 0", "full": "--style style"}.items():
        assert run(command(*words.split(), output=name)) == 0
    plain, none, full = (pictures(here / name).astype(int) for name in ("plain", "none", "full"))
    np.testing.assert_array_equal(none, plain)
    assert np.abs(full - plain).max() > 8
    style = json.loads((here / "full.json").read_text())["style"]
    assert style["strength"] == 0.75
    assert len(style["weights_sha256"]) == 64


@pytest.mark.parametrize("model", ["pixels", LATENTS])
def test_super_resolution_makes_clips_larger_in_segments(here: Path, model: str) -> None:
    words = ["--ssr", model, "--ssr-steps", "1", "--ssr-segment", "5", "--frames", "8"]
    change, scale = ([], 2) if model == "pixels" else (["--upscale", "3", "--ssr-tile-px", "24"], 3)
    assert run(command(*words, *change, model=model)) == 0
    assert pictures(here / "out").shape == (8, scale * SIZE, scale * SIZE, 3)
    told = json.loads((here / "out.json").read_text())["super_resolution"]
    assert (told["scale"], told["segment"], told["upsampling"]["steps"]) == (scale, 5, 1)


def test_super_resolution_makes_videos_of_nuwa_xl_larger_and_goes_on_where_it_was_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--model nuwa --story story.yaml --steps 1 --ssr pixels --ssr-steps 1 --ssr-segment 5"
    assert run([*words.split(), "--output", "whole"]) == 0
    assert pictures(here / "whole").shape == (10, 2 * SIZE, 2 * SIZE, 3)
    real, made = large_video.upsample_video, list[int]()

    def stops(*inputs):
        if len(made) == 2:
            raise _StopError
        made.append(inputs[6])
        return real(*inputs)

    with monkeypatch.context() as patch:
        patch.setattr(large_video, "upsample_video", stops)
        with pytest.raises(_StopError):
            run([*words.split(), "--output", "out"])
    assert made == [place.start for place in cuts(10, 5, 2)][:2]

    def counts(*inputs):
        made.append(inputs[6])
        return real(*inputs)

    monkeypatch.setattr(large_video, "upsample_video", counts)
    assert run([*words.split(), "--output", "out"]) == 0
    assert made == [place.start for place in cuts(10, 5, 2)]
    np.testing.assert_array_equal(pictures(here / "out"), pictures(here / "whole"))
    assert not [path for path in here.iterdir() if path.name.startswith("_")]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--mode image", "--mode image needs --image; give a PNG or JPEG file"),
        ("--mode inpaint --video video.mp4", "--mode inpaint needs --mask; give an image or a video"),
        ("--mode inpaint --mask mask.png", "--mode inpaint needs --video"),
        ("--mode cinemagraph --image image.png", "--mode cinemagraph needs --mask"),
        ("--mode extend", "--mode extend needs --video"),
        ("--mode outpaint", "--mode outpaint needs --video"),
        (
            "--image image.png",
            "--mode text does not read --image; leave it out, or ask for --mode image or cinemagraph",
        ),
        (
            "--mode image --image image.png --mask mask.png",
            "does not read --mask; leave it out, or ask for --mode cinem",
        ),
        ("--mode image --image image.png --place 0 0 8 8", "does not read --place"),
        ("--mode image --image nothing.png", "there is no image nothing.png"),
        ("--mode image --image story.yaml", "story.yaml cannot be read"),
        ("--mode image --image wide.png", "wide.png is 24×16 px, the model makes 16×16"),
        ("--mode image --image wide.png --fit scale", "24×16 px, the model makes 16×16, another aspect; crop it"),
        ("--mode extend --video nothing.mp4", "there is no video nothing.mp4"),
        ("--mode extend --video video.mp4 --frames 6", "fills all 6 frames at 4 fps; ask for more --frames"),
        ("--mode inpaint --video video.mp4 --mask wide.png", "mask wide.png is 24×16 px, video.mp4 is 16×16"),
        ("--mode inpaint --video video.mp4 --mask nothing.png", "there is no image nothing.png"),
        ("--mode inpaint --video video.mp4 --mask black.png", "mask black.png is black, so there is nothing to make"),
        ("--mode inpaint --video video.mp4 --mask small.mp4", "mask small.mp4 is 8×8 px"),
        ("--mode inpaint --video video.mp4 --mask short.mp4", "mask short.mp4 has 3 frames at 4 fps, the clip 6"),
        ("--mode inpaint --video video.mp4 --mask mask.png --frames 9", "has 6 frames at 4 fps, 9 are asked for"),
        ("--mode outpaint --video video.mp4", "16×16 px at (0, 0), leaves no border to make in the 16×16 px"),
        ("--mode outpaint --video small.mp4 --place 9 0 8 8", "8×8 px at (9, 0), leaves no border"),
        ("--mode outpaint --video small.mp4 --place 0 0 8 6", "another aspect"),
        ("--mode outpaint --video small.mp4 --place 0 0 0 8", "--place 0 0 0 8 is no box"),
        ("--style nothing", "there is no style folder nothing"),
        ("--style nuwa", "nuwa has no U-Net"),
        ("--style wide", "the style is of another architecture"),
        ("--style latents", "the style is of another architecture"),
        ("--style style --style-strength 1.5", "--style-strength is 1.5"),
        ("--style-strength 0.5", "--style-strength does nothing without --style"),
        ("--ssr nuwa", "describes NuwaXLPipeline, not StunetPipeline"),
        ("--ssr nothing", "there is no pipeline folder nothing"),
        ("--ssr plain", "plain has no super-resolution; give the `model` of a training of stage ssr"),
        ("--ssr-steps 3", "--ssr-steps does nothing without --ssr"),
        ("--ssr pixels --ssr-steps 0", "steps is 0"),
        ("--ssr pixels --ssr-steps 1001", "noise schedule has 1000"),
        ("--ssr pixels --ssr-noise 2", "noise_augmentation is 2"),
        ("--ssr pixels --ssr-segment 2", "segments of 2 frames cannot go on from 2"),
        ("--ssr pixels --ssr-tile-px 2", "--ssr-tile-px is 2"),
        ("--ssr pixels --upscale -1", "upscale -1"),
        ("--frames 0", "0 frames is no video"),
        ("--frames 1", "1 frame is no video"),
        ("--frames 9999999", "takes more than"),
        ("--guidance 8 2", "--guidance has 2 numbers, one per level; a clip is made at one level: give one"),
        ("--steps 3 2", "--steps has 2 numbers, one per level; a clip is made at one level"),
        ("--overlap 8", "8 frames cannot share 8"),
        ("--tile-px 8", "works on pixels"),
        ("--story story.yaml", "both --prompt and --story are given"),
        ("--depth 2", "--depth is for folders of NUWA-XL, and pixels has a space-time U-Net; leave it out"),
        ("--workers 2", "--workers is for folders of NUWA-XL"),
        ("--first-frame image.png", "ask for --mode image --image"),
        ("--extend video.mp4", "ask for --mode extend --video"),
        (
            "--model nuwa --mode image --image image.png",
            "--mode is for folders of a STUNet, and nuwa is one of NUWA-XL",
        ),
        ("--model nuwa --image image.png", "--image is for folders of a STUNet"),
        ("--model nuwa --style style", "--style is for folders of a STUNet"),
    ],
)
def test_what_cannot_be_made_gets_one_line_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, line: str
) -> None:
    if "--style wide" in words:
        clip_stack.make_unet(3, width=16).save_pretrained("wide")
    if "--ssr plain" in words:
        save_stunet(clip_stack.build(), "plain")
    before = set(here.rglob("*"))
    assert run(command(*words.split())) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert line in stderr
    assert set(here.rglob("*")) == before


def test_neither_prompt_nor_story(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--model", "pixels", "--output", "out"]) == 2
    assert "neither --prompt nor --story is given" in capsys.readouterr().err


def test_pictures_of_another_size_are_scaled_or_cropped_where_that_is_asked_for(here: Path) -> None:
    large = np.zeros((64, 96, 3), np.uint8)
    large[:, 48:] = 200
    Image.fromarray(large).save("large.png")
    Image.fromarray(large[:, 16:80]).save("square.png")
    Image.fromarray(large).convert("L").point(lambda grey: 255 if grey else 0).save("half.png")
    assert run(command("--mode", "image", "--image", "large.png", "--fit", "crop", output="cropped")) == 0
    assert run(command("--mode", "image", "--image", "square.png", "--fit", "scale", output="scaled")) == 0
    np.testing.assert_array_equal(pictures(here / "cropped")[0], pictures(here / "scaled")[0])
    words = ["--mode", "cinemagraph", "--image", "large.png", "--mask", "half.png", "--fit", "crop"]
    assert run(command(*words, output="moves")) == 0
    shown = pictures(here / "moves")
    assert (shown[:, :, :8] == shown[:1, :, :8]).all()  # the mask is cropped as its image is
    assert (shown[1:, :, 8:] != shown[:1, :, 8:]).mean() > 0.9


def test_a_prompt_alone_works_for_nuwa_xl_too(here: Path) -> None:
    assert run(["--model", "nuwa", "--prompt", "a red star", "--output", "out", "--steps", "1"]) == 0
    assert len(pictures(here / "out")) == 5
    assert set(json.loads((here / "out.json").read_text())["prompts"]) == {"a red star"}


def test_a_style_that_changes_meanwhile_is_not_used(here: Path) -> None:
    clip_stack.make_unet(3, seed=5).save_pretrained("mine")
    style = stored_style(Path("mine"), 0.5)
    clip_stack.make_unet(3, seed=6).save_pretrained("mine")
    with pytest.raises(NuwaError, match="has changed since this clip was begun"):
        load_style(style)


def test_a_video_longer_than_memory_holds_is_not_read_to_its_end(here: Path) -> None:
    source = Source(mode="inpaint", video=Path("video.mp4"), mask=Path("mask.png"))
    with pytest.raises(NuwaError, match="more than the 5 frames at 4 fps that the memory here holds"):
        read_given(source, None, 8, 4.0, Size(SIZE, SIZE), most=5)
    assert read_given(source, None, 8, 4.0, Size(SIZE, SIZE), most=6).num_frames == 6
    assert read_given(source, 4, 8, 4.0, Size(SIZE, SIZE), most=5).num_frames == 4
