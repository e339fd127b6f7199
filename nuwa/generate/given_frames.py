"""Frames that are there before generation begins: a first image, a storyboard, a video to be extended.

Paper: not stated; here: given frames keep their latents and pixels at every level, as made ones do, and every window
that holds some of them takes them as known.
"""

import hashlib
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange

from nuwa.generate.pictures import IMAGE_SUFFIXES, Picture, Size, VideoPictures, read_image
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.story import GivenImage, frame_at
from nuwa.generate.window_pixels import encode_window
from nuwa.generate.windows import FixedFrame
from nuwa.hierarchy import NuwaError, strides

_NUMBERED = re.compile(r"frame[-_ ]?(\d+)", re.IGNORECASE)


class Pictures(Protocol):
    """Pictures in order, uint8 (H W 3) each: a tuple of them, or a video that is read when they are asked for."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Picture]: ...
    def __getitem__(self, number: int, /) -> Picture: ...


@dataclass(frozen=True)
class GivenClip:
    """Successive frames of the finished video, from number `first` on; an image is one frame."""

    first: int
    pictures: Pictures
    source: Path

    def describe(self) -> dict[str, Any]:
        """What the record says of it: where it came from, which frames it fills, a hash of its pixels."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(picture.tobytes())
        last = self.first + len(self.pictures) - 1
        return {"source": str(self.source), "first": self.first, "last": last, "pixels_sha256": digest.hexdigest()}


class GivenFrames(Mapping[int, FixedFrame]):
    """Frame number → its latent and pixels; pixels are taken from the clip when they are asked for."""

    def __init__(self, latents: Mapping[int, torch.Tensor], clips: Sequence[GivenClip]) -> None:
        self._latents, self._clips = dict(latents), tuple(clips)

    def __getitem__(self, frame: int) -> FixedFrame:
        latent = self._latents[frame]
        clip = next(clip for clip in self._clips if 0 <= frame - clip.first < len(clip.pictures))
        return FixedFrame(latent, _pixels([clip.pictures[frame - clip.first]])[:, 0])

    def __contains__(self, frame: object) -> bool:
        return frame in self._latents

    def __iter__(self) -> Iterator[int]:
        return iter(self._latents)

    def __len__(self) -> int:
        return len(self._latents)


def image_clips(images: Sequence[GivenImage], fps: float, size: Size) -> list[GivenClip]:
    """Single images of a story, each at its frame; a time becomes the nearest frame."""
    numbers = [frame_at(given.at_s, fps) if given.at_s is not None else given.frame or 0 for given in images]
    return [
        GivenClip(number, (read_image(given.image, size),), given.image)
        for number, given in zip(numbers, images, strict=True)
    ]


def storyboard_clips(folder: Path, frames: int, length: int, depth: int, size: Size) -> list[GivenClip]:
    """The images of a folder: all by number, `frame-000015.png` is frame 15, or all spread over the video.

    Spread in the order of their names over the frames of the first level that has enough of them (the keyframes of
    the global window, unless the tree is cropped): one on its first frame, one on its last, the others evenly between.
    NuwaError for a folder that has both kinds: a number would be lost, or another image be nowhere.
    """
    paths = _images_in(folder)
    named = [_NUMBERED.fullmatch(path.stem) for path in paths]
    numbers = [int(name[1]) for name in named if name]
    if not numbers:
        numbers = _spread(len(paths), frames, strides(length, depth), folder)
    elif len(numbers) < len(paths):
        numbered = next(path for path, name in zip(paths, named, strict=True) if name)
        other = next(path for path, name in zip(paths, named, strict=True) if not name)
        raise NuwaError(
            f"storyboard {folder} has {numbered.name} with a frame number and {other.name} without; "
            "number all of its images, or none"
        )
    return [GivenClip(number, (read_image(path, size),), path) for number, path in zip(numbers, paths, strict=True)]


def video_clip(path: Path, frames: int, fps: float, size: Size) -> GivenClip:
    """The video that a longer one begins with. NuwaError when nothing is left to make."""
    pictures = VideoPictures(path, fps, size, most=frames)
    if len(pictures) == frames:
        raise NuwaError(
            f"video {path} fills all {frames} frames at {fps:g} fps; ask for more --frames than it has to extend it"
        )
    return GivenClip(0, pictures, path)


def check_clips(clips: Sequence[GivenClip], frames: int) -> None:
    """Raise NuwaError where given frames lie beyond the video, or two of them at one place."""
    ordered = sorted(clips, key=lambda clip: clip.first)
    for clip in ordered:
        if clip.first + len(clip.pictures) > frames:
            raise NuwaError(
                f"{clip.source} is given for frame {clip.first}, but the video has frames 0 to {frames - 1}; "
                "give an earlier place, or more --frames"
            )
    for before, after in pairwise(ordered):
        if after.first < before.first + len(before.pictures):
            raise NuwaError(f"{before.source} and {after.source} are both given for frame {after.first}; give one")


@torch.no_grad()
def encode_clips(pipe: NuwaXLPipeline, clips: Sequence[GivenClip], tile_px: int | None = None) -> GivenFrames:
    """Latents of given frames; of the pictures, as many as a window has are in memory at once.

    Paper: not stated; here: the autoencoder has learned windows of `window_length` frames, and the latent of a frame
    depends on its neighbours. So a video is encoded in the windows of stride 1 that the finished video is decoded
    in, and an image as a window in which it stands still. `tile_px` as in `Sampling`.
    """
    latents: dict[int, torch.Tensor] = {}
    length = pipe.config.window_length
    for clip in clips:
        for start, window in _windows(clip.pictures, length):
            encoded = _encode(pipe, window, tile_px)  # c l h w
            for place in range(min(length, len(clip.pictures) - start)):
                latents.setdefault(clip.first + start + place, encoded[:, place])
    return GivenFrames(latents, clips)


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NuwaError(f"there is no storyboard folder {folder}; give a folder of images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise NuwaError(f"storyboard {folder} has no image; put in {', '.join(IMAGE_SUFFIXES)} files")
    return paths


def _spread(count: int, frames: int, level_strides: Sequence[int], folder: Path) -> list[int]:
    if count > frames:
        raise NuwaError(f"storyboard {folder} has {count} images for {frames} frames; give fewer, or more --frames")
    grid = next(grid for grid in (range(0, frames, stride) for stride in level_strides) if len(grid) >= count)
    return [grid[place] for place in np.linspace(0, len(grid) - 1, count).round().astype(int)]


def _windows(pictures: Pictures, length: int) -> Iterator[tuple[int, list[Picture]]]:
    """Windows of `length` frames that share their ends; the last one is moved back, or its last frame held.

    Each picture is taken once, in order.
    """
    last = max(0, len(pictures) - length)
    unread, held, count = iter(pictures), deque[Picture](maxlen=length), 0
    for start in [*range(0, last, length - 1), last]:
        held.extend(islice(unread, start + length - count))
        count = start + length
        yield start, [*held, *[held[-1]] * (length - len(held))]


def _encode(pipe: NuwaXLPipeline, window: Sequence[Picture], tile_px: int | None) -> torch.Tensor:
    """Scaled latents (c l h w) on the CPU, as training encodes its targets."""
    return encode_window(pipe, _pixels(window)[None], pipe.vae.dtype, tile_px)[0].cpu()


def _pixels(pictures: Sequence[Picture]) -> torch.Tensor:
    """(3 t H W) in [−1, 1], as training makes it."""
    frames = torch.from_numpy(np.stack(pictures))
    return rearrange(frames, "t h w c -> c t h w").contiguous().float() / 127.5 - 1.0
