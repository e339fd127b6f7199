"""What tests of pipelines.generate with a space-time U-Net share: models and files on disk, a command, what it made."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from nuwa.generate.stunet_pipeline import save_stunet
from nuwa.generate.video_files import write_video
from tests.generated import STORY, save_model
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import SIZE

MODES = {
    "text": "",
    "image": "--image image.png",
    "inpaint": "--video video.mp4 --mask mask.png",
    "outpaint": "--video small.mp4 --place 4 0 8 8",
    "cinemagraph": "--image image.png --mask mask.mp4",
    "extend": "--video video.mp4 --frames 11",
}
"""Mode → what it reads."""


class StopError(Exception):
    """Stops a command in the middle, as a kill would."""


def fill(folder: Path) -> None:
    """Models `pixels` and `latents`, both with super-resolution, `nuwa`, the style `style`; and files for the modes."""
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


def command(*words: str, model: str = "pixels", output: str = "out") -> list[str]:
    """Writes PNG images: what is kept can be seen exactly."""
    return ["--model", model, "--prompt", "a red star", "--output", output, "--steps", "1", *words]


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def given_video(name: str) -> np.ndarray:
    with av.open(name) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
