"""Videos decoded at one size and one rate, cut into clips of one length; one clip is in memory at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nuwa.evaluate.sources import Footage, Source, UnreadableVideoError, common
from nuwa.hierarchy import NuwaError

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Format:
    """What every clip of both sets looks like: frames of `height` × `width` px at `fps`, `frames` of them."""

    height: int
    width: int
    fps: float
    frames: int

    def count(self, source: Source) -> int:
        """Frames of a source at this rate."""
        return int((source.num_frames - 1) / source.fps * self.fps + 1.0 + 1e-6)

    def frame_of(self, source: Source, number: int) -> int:
        """Number in the source of the frame that is on the screen at frame `number` of this rate."""
        return min(source.num_frames - 1, int(number / self.fps * source.fps + 1e-6))

    def keeps_frames(self, source: Source) -> bool:
        """True when the source is not resampled in time."""
        return abs(source.fps - self.fps) <= 1e-3 * self.fps


@dataclass(frozen=True)
class Clip:
    """Part `part` of a source: its frames (t h w 3) uint8 RGB, and a prompt per frame (none when unknown)."""

    source: Source
    part: int
    frames: Frames
    prompts: tuple[str, ...]


def choose_format(
    generated: Sequence[Source],
    real: Sequence[Source],
    size: tuple[int, int] | None,
    fps: float | None,
    frames: int | None,
) -> Format:
    """Size, rate and length of the clips: those of the generated videos unless asked for otherwise.

    Raises NuwaError when generated videos differ, or when a video would be enlarged or have frames repeated: both
    would be measured as a fault of the video.
    """
    if size is None:
        pixels = [((source.height, source.width), source) for source in generated]
        remedy = "give --size HEIGHT WIDTH for all"
        size = common(pixels, "the size of generated videos (height, width)", remedy)  # type: ignore[assignment]
    if fps is None:
        rates = [(round(source.fps, 2), source) for source in generated]
        common(rates, "the frame rate of generated videos", f"give --fps {min(rate for rate, _ in rates):g} for all")
        fps = generated[0].fps
    assert size is not None
    if min(size) < 1 or fps <= 0 or (frames is not None and frames < 2):
        raise NuwaError(f"size {size}, fps {fps}, frames {frames}; give a size and rate above 0, and 2 frames or more")
    chosen = Format(height=size[0], width=size[1], fps=fps, frames=2)
    for source in (*generated, *real):
        _check(source, chosen)
    longest = max(chosen.count(source) for source in generated)
    length = min(chosen.count(source) for source in generated) if frames is None else frames
    if length > longest or length < 2:
        raise NuwaError(
            f"generated videos have up to {longest} frames at {fps:g} fps, not {length}; give less --frames"
        )
    return Format(height=size[0], width=size[1], fps=fps, frames=length)


def _check(source: Source, wanted: Format) -> None:
    scale = max(wanted.height / source.height, wanted.width / source.width)
    if scale > 1.0:
        raise NuwaError(
            f"{source.path} is {source.height}x{source.width} px (height x width) and would be enlarged to "
            f"{wanted.height}x{wanted.width}; give --size {int(wanted.height / scale)} {int(wanted.width / scale)}"
        )
    if source.fps < wanted.fps * 0.999:
        raise NuwaError(
            f"{source.path} has {source.fps:g} frames a second, not {wanted.fps:g}; give --fps {source.fps:g}"
        )


def parts(source: Source, wanted: Format, whole: bool) -> int:
    """Clips of the wanted length that a source gives; at most its beginning when `whole`."""
    count = wanted.count(source) // wanted.frames
    return min(count, 1) if whole else count


def spread(footage: Footage, wanted: Format, most: int | None) -> list[tuple[Source, list[int]]]:
    """The parts to take of every source, all or `most` of them spread evenly over the set."""
    every = [(source, part) for source in footage.sources for part in range(parts(source, wanted, False))]
    if most is not None and most < len(every):
        every = [every[int(at)] for at in np.linspace(0, len(every) - 1, most).round()]
    return [
        (source, [part for other, part in every if other is source])
        for source in footage.sources
        if any(other is source for other, _ in every)
    ]


def prompts_of(source: Source, part: int, wanted: Format) -> tuple[str, ...]:
    """One prompt per frame of a clip; empty when the source has none."""
    if not source.prompts:
        return ()
    first = part * wanted.frames
    return tuple(source.prompt(wanted.frame_of(source, number)) for number in range(first, first + wanted.frames))


def read_clips(source: Source, chosen: Sequence[int], wanted: Format) -> Iterator[Clip]:
    """Decode the clips numbered `chosen` (ascending), one at a time.

    Raises UnreadableVideoError when the file is damaged or ends before its last clip.
    """
    gathered: list[Frames] = []
    left = list(chosen)
    for number, image in _at_rate(source, wanted):
        part, place = divmod(number, wanted.frames)
        if part == left[0]:
            gathered.append(fit(image, wanted.height, wanted.width))
            if place == wanted.frames - 1:
                yield Clip(source, part, np.stack(gathered), prompts_of(source, part, wanted))
                gathered, left = [], left[1:]
        if not left:
            return
    raise UnreadableVideoError(f"{source.path} ends before frame {source.num_frames} that its header promises")


def _at_rate(source: Source, wanted: Format) -> Iterator[tuple[int, Frames]]:
    """Frames of a source as a viewer sees them at the wanted rate, numbered."""
    number = 0
    for index, image in enumerate(_decode(source)):
        while wanted.frame_of(source, number) == index and number < wanted.count(source):
            yield number, image
            number += 1


def _decode(source: Source) -> Iterator[Frames]:
    try:
        if source.path.is_dir():
            for number in range(source.num_frames):
                with Image.open(source.path / f"frame-{number:06d}.png") as image:
                    yield np.asarray(image.convert("RGB"))
            return
        with av.open(str(source.path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, UnidentifiedImageError) as error:
        raise UnreadableVideoError(f"{source.path} cannot be decoded ({error})") from error


def fit(image: Frames, height: int, width: int) -> Frames:
    """Cut to the aspect ratio, from the middle, and scale down by averaging areas: (h w 3) → (height width 3)."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(image.shape[0] / height, image.shape[1] / width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (image.shape[0] - tall) // 2, (image.shape[1] - wide) // 2
    cut = image[top : top + tall, left : left + wide]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
