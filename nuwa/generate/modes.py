"""What a clip is made from, by mode: files of the user as known pixels (Lumiere Sec. 4.2).

Reading the modes and what they need imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nuwa.generate.config import Mode
from nuwa.generate.pictures import IMAGE_SUFFIXES, Fit, Picture, Size, read_image, read_video
from nuwa.hierarchy import NuwaError

if TYPE_CHECKING:
    import torch

    from nuwa.generate.masks import Known

Role = Literal["image", "video", "mask"]
Place = tuple[int, int, int, int]
"""Left, top, width and height of a box, in px."""

NEEDS: dict[Mode, tuple[Role, ...]] = {
    "text": (),
    "image": ("image",),
    "inpaint": ("video", "mask"),
    "outpaint": ("video",),
    "cinemagraph": ("image", "mask"),
    "extend": ("video",),
}
AS_THE_VIDEO: tuple[Mode, ...] = ("inpaint", "outpaint")
"""Modes whose clip is as long as the video, unless told otherwise."""
MADE = 128
"""Grey level from which a pixel of a mask counts as white: it is made."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of a mode, and where in the frame its video lies.

    place: left, top, width, height in px of the box that a video to be outpainted goes into; None = its own size, in
        the middle
    NuwaError where a file is missing that the mode needs, or one is given that it does not read.
    """

    mode: Mode
    image: Path | None = None
    video: Path | None = None
    mask: Path | None = None
    place: Place | None = None

    def __post_init__(self) -> None:
        needs = NEEDS[self.mode]
        for role in ("image", "video", "mask"):
            path = getattr(self, role)
            if path is None and role in needs:
                raise NuwaError(f"--mode {self.mode} needs --{role}; give {_FORMS[role]}")
            if path is not None and role not in needs:
                fits = [mode for mode, roles in NEEDS.items() if role in roles and set(needs) <= set(roles)]
                other = f", or ask for --mode {' or '.join(fits)}" if fits else ""
                raise NuwaError(f"--mode {self.mode} does not read --{role}; leave it out{other}")
        if self.place is not None and self.mode != "outpaint":
            raise NuwaError(f"--mode {self.mode} does not read --place; leave it out, or ask for --mode outpaint")


_FORMS: dict[Role, str] = {
    "image": "a PNG or JPEG file",
    "video": "an mp4, or any other file that FFmpeg reads",
    "mask": "an image or a video of the same size, white where pixels are to be made",
}


@dataclass(frozen=True)
class Given:
    """Known pixels of a clip, and what the record says of the files they came from."""

    known: Known
    inputs: tuple[dict[str, Any], ...]

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return int(self.known.mask.shape[1])


def read_given(source: Source, frames: int | None, default: int, fps: float, size: Size, most: int) -> Given:
    """Known pixels in a clip of `frames` frames at `fps`, read and checked.

    frames: None = as many as the video has that is painted into, `default` in every other mode
    most: frames that memory holds; a longer video is not read further
    NuwaError, one line naming the file, for what cannot be read or does not fit. All frames are in memory.
    """
    from nuwa.generate import masks  # torch takes seconds to import

    match source.mode:
        case "text":
            return Given(masks.nothing(frames or default, size.height, size.width), ())
        case "image":
            image = _image(source, size)
            return Given(
                masks.image_to_video(_tensor([image])[:, 0], frames or default), (_told(source, "image", [image]),)
            )
        case "cinemagraph":
            _check_mask(source, fps)
            image, count = _image(source, size), frames or default
            region = _region(source, count, fps, size)
            known = masks.cinemagraph(_tensor([image])[:, 0], _flags(region), count)
            return Given(known, (_told(source, "image", [image]), _told(source, "mask", region)))
        case "extend":
            count = frames or default
            pictures = list(read_video(_path(source, "video"), fps, size, count))
            if len(pictures) == count:
                raise NuwaError(
                    f"video {source.video} fills all {count} frames at {fps:g} fps; ask for more --frames than it has"
                )
            return Given(masks.extension(_tensor(pictures), count), (_told(source, "video", pictures),))
        case "inpaint":
            _check_mask(source, fps)
            pictures = _video(source, frames, fps, size, most)
            region = _region(source, len(pictures), fps, size)
            known = masks.inpainting(_tensor(pictures), _flags(region))
            return Given(known, (_told(source, "video", pictures), _told(source, "mask", region)))
        case "outpaint":
            return _outpainted(source, frames, fps, size, most)


def _outpainted(source: Source, frames: int | None, fps: float, size: Size, most: int) -> Given:
    from nuwa.generate import masks

    left, top, width, height = place = _box(source, fps, size)
    fit: Fit = "exact" if source.place is None else "scale" if size.fit == "exact" else size.fit
    pictures = _video(source, frames, fps, Size(height, width, fit), most)
    known = masks.outpainting(_tensor(pictures), size.height, size.width, top, left)
    return Given(known, (_told(source, "video", pictures) | {"place": list(place)},))


def _box(source: Source, fps: float, size: Size) -> Place:
    """Left, top, width and height of the box that a video to be outpainted goes into.

    NuwaError, told by the first picture alone, for a box that is none, leaves no border, or does not fit the video.
    """
    path = _path(source, "video")
    height, width = _native(path, fps).shape[:2]
    own, ours = f"video {path} is {width}×{height} px", f"{size.width}×{size.height} px of the model's frame"
    give = "give --place LEFT TOP WIDTH HEIGHT, the box inside that it is scaled into"
    if source.place is None:
        if (width, height) == (size.width, size.height):
            raise NuwaError(f"{own}, all of the {ours}, which leaves no border to make; {give}")
        if width > size.width or height > size.height:
            raise NuwaError(f"{own}, more than the {ours}; {give}")
        return (size.width - width) // 2, (size.height - height) // 2, width, height
    _check_box(source.place, size, ours)
    if size.fit != "crop" and source.place[2] * height != source.place[3] * width:
        raise NuwaError(
            f"{own}, and {_shown(source.place)} has another aspect; give a box of the video's aspect, or --fit crop to "
            "have cut off what sticks out"
        )
    return source.place


def _check_box(place: Place, size: Size, ours: str) -> None:
    """Raise NuwaError for a box that is none, or does not lie inside the frame with a border around it."""
    left, top, width, height = place
    if min(width, height) < 1:
        raise NuwaError(f"{_shown(place)} is no box; give left, top, width and height in px")
    if min(left, top, size.width - left - width, size.height - top - height) < 0:
        raise NuwaError(f"{_shown(place)} reaches beyond the {ours}; give a box inside")
    if (width, height) == (size.width, size.height):
        raise NuwaError(f"{_shown(place)} is all of the {ours}, which leaves no border to make; give a smaller box")


def _shown(place: Place) -> str:
    return f"--place {' '.join(map(str, place))}"


def _path(source: Source, role: Role) -> Path:
    path = getattr(source, role)
    assert isinstance(path, Path), "a source has what its mode needs"
    return path


def _image(source: Source, size: Size) -> Picture:
    return read_image(_path(source, "image"), size)


def _video(source: Source, frames: int | None, fps: float, size: Size, most: int) -> list[Picture]:
    """All pictures, or the first `frames`. NuwaError for fewer than two, fewer than that, and more than `most`."""
    path = _path(source, "video")
    pictures = list(read_video(path, fps, size, most + 1 if frames is None else frames))
    if len(pictures) > most:
        raise NuwaError(
            f"video {path} has more than the {most} frames at {fps:g} fps that the memory here holds in one pass; "
            "give --frames to take its beginning"
        )
    if frames is not None and len(pictures) < frames:
        raise NuwaError(
            f"video {path} has {len(pictures)} frames at {fps:g} fps, {frames} are asked for; ask for fewer --frames"
        )
    if len(pictures) < 2:
        raise NuwaError(
            f"video {path} has one frame at {fps:g} fps, which is no video; give a longer one, or more --fps"
        )
    return pictures


def _check_mask(source: Source, fps: float) -> None:
    """Raise NuwaError for a mask of another size than what it belongs to, told by the first picture of both.

    Both are brought to the model's size alike.
    """
    path, other = _path(source, "mask"), source.image if source.video is None else source.video
    assert other is not None
    found, wanted = _native(path, fps), _native(other, fps)
    if found.shape[:2] != wanted.shape[:2]:
        raise NuwaError(
            f"mask {path} is {found.shape[1]}×{found.shape[0]} px, {other} is {wanted.shape[1]}×{wanted.shape[0]}; "
            "give a mask of that size"
        )


def _region(source: Source, count: int, fps: float, size: Size) -> list[Picture]:
    """The mask as one picture, or one per frame, uint8 (H W), 1 = made."""
    path = _path(source, "mask")
    pictures = [read_image(path, size)] if _is_image(path) else list(read_video(path, fps, size, count))
    if 1 < len(pictures) < count:
        raise NuwaError(
            f"mask {path} has {len(pictures)} frames at {fps:g} fps, the clip {count}; give one per frame, or an image"
        )
    made = [(picture.mean(axis=-1) >= MADE).astype(np.uint8) for picture in pictures]
    if not any(picture.any() for picture in made):
        raise NuwaError(f"mask {path} is black, so there is nothing to make; paint white what is to be made")
    return made


def _native(path: Path, fps: float) -> Picture:
    """The first picture of a file, as it is."""
    return read_image(path, None) if _is_image(path) else next(read_video(path, fps, None, 1))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _tensor(pictures: Sequence[Picture]) -> torch.Tensor:
    """(3 t H W) in [−1, 1]; rounding it to 8 bits gives the pictures back."""
    import torch
    from einops import rearrange

    frames = torch.from_numpy(np.stack(pictures))
    return rearrange(frames, "t h w c -> c t h w").contiguous().float() / 127.5 - 1.0


def _flags(region: Sequence[Picture]) -> torch.Tensor:
    """A mask (H W), or (t H W) where it moves."""
    import torch

    flags = torch.from_numpy(np.stack(region)).float()
    return flags[0] if len(region) == 1 else flags


def _told(source: Source, role: Role, pictures: Sequence[Picture]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(picture.tobytes())
    told = {"role": role, "source": str(getattr(source, role)), "frames": len(pictures)}
    return told | {"pixels_sha256": digest.hexdigest()}
