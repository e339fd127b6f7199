"""Held-out stories: what every frame should show, drawn as footage, passed through an autoencoder, and on a sheet."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from demo import world
from nuwa.hierarchy import depth_for, strides

if TYPE_CHECKING:
    import torch

    from nuwa.generate.pipeline import NuwaXLPipeline

Video = world.Image
"""(n h w 3) uint8 RGB."""
DRAWN_PX = 128
"""Height that frames are drawn at before they are shrunk, that of the footage."""
SHEET_COLUMNS = 16
MADE_WITH = "made_with"


def draw_story(seed: int, num_frames: int, fps: float) -> list[world.Scene]:
    """The clean scene that every frame of a held-out episode should show."""
    rng = np.random.default_rng(seed)
    hero, scenes = world.random_hero(rng, True), list[world.Scene]()
    while len(scenes) < num_frames:
        last = scenes[-1].place if scenes else ""
        scene = world.random_scene(rng, hero, True, last, clean=True)
        scenes += [scene] * round(scene.duration_s * fps)
    return scenes[:num_frames]


def draw_frames(scenes: Sequence[world.Scene], height: int, width: int, fps: float) -> Video:
    """The story as footage of the given size, with hard cuts: drawn large and shrunk, like training footage."""
    tall = max(DRAWN_PX, height)
    wide = round(tall * width / height)
    images = [
        cv2.resize(world.draw_scene(scene, frame / fps, tall, wide), (width, height), interpolation=cv2.INTER_AREA)
        for _, shot in groupby(scenes, key=id)
        for frame, scene in enumerate(shot)
    ]
    return np.stack(images).astype(np.uint8)


def filmed(video: Video, fps: float) -> Video:
    """The video as a dataset holds it, through H.264 with colours at half the size: what autoencoders learn from."""
    from nuwa.generate.video_files import write_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "footage.mp4"
        write_video(path, video, fps)
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def reconstruct(pipe: "NuwaXLPipeline", video: Video) -> Video:
    """The video encoded window by window at stride 1 and decoded like a generated one."""
    import torch

    from nuwa.generate.streaming_decode import decode_frames
    from nuwa.generate.windows import Sampling, WindowSampler

    length, pixels, latents = pipe.config.window_length, _pixels(video), []
    for start in range(0, max(1, len(video) - 1), length - 1):
        window = _encode(pipe, pixels[:, start : start + length])[0]  # c l h w
        latents.append(window[:, bool(start) :])
    decode = WindowSampler(pipe, Sampling()).decode
    return np.stack(list(decode_frames(decode, torch.cat(latents, dim=1), length)))


@dataclass(frozen=True)
class Reconstruction:
    """How an autoencoder does on the windows of one video.

    squared_errors: stride → mean squared error, pixels in [0, 1]
    latent_mean, latent_square: of the scaled latents of all windows and of their squares
    """

    squared_errors: dict[int, float]
    latent_mean: float
    latent_square: float


def measure_autoencoder(pipe: "NuwaXLPipeline", video: Video) -> Reconstruction:
    """Encode (to the mean) and decode the windows at every stride that the video has room for."""
    import torch

    length, pixels = pipe.config.window_length, _pixels(video)
    errors, latents = dict[int, float](), list[torch.Tensor]()
    for stride in strides(length, depth_for(len(video), length)):
        span, found = (length - 1) * stride, []
        for start in range(0, len(video) - span, span):
            window = pixels[:, start : start + span + 1 : stride]
            latents.append(_encode(pipe, window))
            with torch.no_grad():
                decoded = pipe.vae.decode(latents[-1] / pipe.vae.config.scaling_factor)[0]
            found.append(float((decoded.clamp(-1, 1) - window).square().mean()) / 4.0)
        if found:
            errors[stride] = float(np.mean(found))
    z = torch.cat([latent.flatten() for latent in latents])
    return Reconstruction(errors, float(z.mean()), float(z.square().mean()))


def _pixels(video: Video) -> "torch.Tensor":
    """(3 n h w) in [−1, 1]."""
    import torch

    return torch.from_numpy(video).permute(3, 0, 1, 2) / 127.5 - 1


def _encode(pipe: "NuwaXLPipeline", window: "torch.Tensor") -> "torch.Tensor":
    """Scaled latents (1 c l h w) of a window (3 l h w)."""
    import torch

    with torch.no_grad():
        latents: torch.Tensor = pipe.vae.encode(window[None]).mode() * pipe.vae.config.scaling_factor
    return latents


def write_sheet(path: Path, video: Video, made_with: dict[str, object]) -> None:
    """All frames, row by row, in one PNG that says what they were made with; complete or not there."""
    blank = np.zeros_like(video[: -len(video) % SHEET_COLUMNS])
    rows = np.concatenate([video, blank]).reshape(-1, SHEET_COLUMNS, *video.shape[1:])
    note = PngImagePlugin.PngInfo()
    note.add_text(MADE_WITH, json.dumps(made_with | {"height": video.shape[1], "width": video.shape[2]}))
    draft = path.with_name(f"_{path.name}")
    Image.fromarray(np.vstack([np.hstack(list(row)) for row in rows])).save(draft, "PNG", pnginfo=note)
    draft.replace(path)


def read_sheet(path: Path) -> tuple[Video, dict[str, object]] | None:
    """What `write_sheet` wrote; None where there is nothing, or something else."""
    try:
        with Image.open(path) as image:
            made_with, sheet = json.loads(image.info[MADE_WITH]), np.asarray(image.convert("RGB"))
        height, width = int(made_with.pop("height")), int(made_with.pop("width"))
        frames = sheet.reshape(-1, height, SHEET_COLUMNS, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    except (OSError, UnidentifiedImageError, KeyError, ValueError, TypeError):
        return None
    return frames[: int(made_with["frames"])], made_with


def write_strips(path: Path, videos: Sequence[Video], columns: int = SHEET_COLUMNS) -> None:
    """A row for every video: frames evenly spread over it."""
    rows = [np.hstack([video[round(at)] for at in np.linspace(0, len(video) - 1, columns)]) for video in videos]
    Image.fromarray(np.vstack(rows)).save(path, "PNG")
