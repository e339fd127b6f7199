"""What pipelines.generate cannot make in one pass: one line each, at once, and nothing left behind."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nuwa.generate import modes
from nuwa.generate.modes import Source, read_given
from nuwa.generate.pictures import Picture, Size, read_video
from nuwa.generate.stunet_pipeline import save_stunet
from nuwa.generate.video_files import write_video
from nuwa.hierarchy import NuwaError
from tests.clip_commands import command
from tests.generated import run
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import SIZE


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
        ("--mode outpaint --video video.mp4", "video.mp4 is 16×16 px, all of the 16×16 px of the model's frame, which"),
        (
            "--mode outpaint --video large.mp4",
            "large.mp4 is 24×16 px, more than the 16×16 px of the model's frame; give",
        ),
        ("--mode outpaint --video small.mp4 --place 9 0 8 8", "--place 9 0 8 8 reaches beyond the 16×16 px of the mod"),
        ("--mode outpaint --video small.mp4 --place -1 0 8 8", "--place -1 0 8 8 reaches beyond the 16×16 px"),
        (
            "--mode outpaint --video small.mp4 --place 0 0 16 16",
            "--place 0 0 16 16 is all of the 16×16 px of the model",
        ),
        (
            "--mode outpaint --video small.mp4 --place 0 0 8 6",
            "small.mp4 is 8×8 px, and --place 0 0 8 6 has another aspect; give a box of the video's aspect, or --fit",
        ),
        ("--mode outpaint --video small.mp4 --fit crop", "--fit crop does nothing in --mode outpaint without --place"),
        ("--fit scale", "--fit scale does nothing in --mode text"),
        ("--put-back", "--put-back does nothing in --mode text"),
        ("--place 0 0 8 8", "--mode text does not read --place; leave it out, or ask for --mode outpaint"),
        ("--batch 2", "--batch 2 is for clips longer than the 8 frames that the model was trained for, and this one"),
        ("--mode inpaint --video video.mp4 --mask mask.png --overlap 2", "and this one has 6; leave it out, or ask"),
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
        (
            "--ssr pixels --ssr-noise 0.6",
            "--ssr-noise is 0.6, but pixels was trained with noise up to 0.5; give at most",
        ),
        ("--ssr pixels --ssr-segment 2", "segments of 2 frames hold no windows that share 2"),
        ("--ssr pixels --ssr-tile-px 2", "--ssr-tile-px is 2"),
        ("--ssr pixels --upscale -1", "upscale -1"),
        ("--frames 0", "0 frames is no video"),
        ("--frames 1", "1 frame is no video"),
        ("--frames 9999999", "takes more than"),
        ("--guidance 8 2", "--guidance has 2 numbers, one per level; a clip is made at one level: give one"),
        ("--steps 3 2", "--steps has 2 numbers, one per level; a clip is made at one level"),
        ("--frames 16 --overlap 8", "8 frames cannot share 8"),
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
    clip_folder: Path, capsys: pytest.CaptureFixture[str], words: str, line: str
) -> None:
    if "--style wide" in words:
        clip_stack.make_unet(3, width=16).save_pretrained("wide")
    if "--ssr plain" in words:
        save_stunet(clip_stack.build(), "plain")
    if "large.mp4" in words:
        write_video("large.mp4", [np.zeros((SIZE, 24, 3), np.uint8)] * 2, 4)
    before = set(clip_folder.rglob("*"))
    assert run(command(*words.split())) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert line in stderr
    assert set(clip_folder.rglob("*")) == before


def test_neither_prompt_nor_story(clip_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--model", "pixels", "--output", "out"]) == 2
    assert "neither --prompt nor --story is given" in capsys.readouterr().err


def test_a_video_longer_than_memory_holds_is_not_read_to_its_end(clip_folder: Path) -> None:
    source = Source(mode="inpaint", video=Path("video.mp4"), mask=Path("mask.png"))
    with pytest.raises(NuwaError, match="more than the 5 frames at 4 fps that the memory here holds"):
        read_given(source, None, 8, 4.0, Size(SIZE, SIZE), most=5)
    assert read_given(source, None, 8, 4.0, Size(SIZE, SIZE), most=6).num_frames == 6
    assert read_given(source, 4, 8, 4.0, Size(SIZE, SIZE), most=5).num_frames == 4


@pytest.mark.parametrize(
    ("mode", "place", "line"),
    [
        ("outpaint", None, "more than the 16×16 px"),
        ("outpaint", (0, 0, 8, 8), "has another aspect"),
        ("inpaint", None, "give a mask of that size"),
        ("extend", None, "the model makes 16×16"),
    ],
)
def test_a_video_of_another_size_is_refused_by_its_first_picture(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, place: tuple[int, int, int, int] | None, line: str
) -> None:
    write_video("wide.mp4", [np.zeros((64, 96, 3), np.uint8)] * 12, 4)
    most_read = 0

    def counted(path: Path, fps: float, size: Size | None, most: int | None = None) -> Iterator[Picture]:
        nonlocal most_read
        for number, picture in enumerate(read_video(path, fps, size, most), 1):
            most_read = max(most_read, number)
            yield picture

    monkeypatch.setattr(modes, "read_video", counted)
    mask = Path("mask.png") if mode == "inpaint" else None
    source = Source(mode=mode, video=Path("wide.mp4"), mask=mask, place=place)  # type: ignore[arg-type]
    with pytest.raises(NuwaError, match=line):
        read_given(source, None, 24, 4.0, Size(SIZE, SIZE), most=99)
    assert most_read <= 1
