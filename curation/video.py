"""Reading and writing video with PyAV: probe, one-pass decoding in presentation order, spans read again,
constant-rate files written.

Pictures are as displayed: rotation and pixel aspect applied. Times are presentation times in seconds on the
source's own clock.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from curation.config_error import CurationError
from curation.container import NoVideoError, PresentationClock, VideoDecodeError, as_decode_error, open_stream
from curation.picture import Frame, displayed_size
from curation.store import open_file

_WITHOUT_PTS = ("avi",)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the header and the first frame say: width, height px as displayed; fps 1/s, duration_s null when
    not stated.
    """

    container: str
    codec: str
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    rotation_deg: int
    pixel_aspect: Fraction
    time_base: Fraction


def content_hash(uri: str) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of a local path or any URI."""
    digest, size = hashlib.sha256(), 0
    with open_file(uri) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def probe(uri: str) -> VideoInfo:
    """Describe the best video stream; decodes one frame, for rotation is known only then."""
    with open_stream(uri) as (container, stream):
        frame = next(_frames(uri, container, stream), None)
        if frame is None:
            raise NoVideoError(f"{uri}: no frame can be decoded: check that the file is complete")
        rate, ticks = stream.average_rate or stream.guessed_rate, stream.duration
        stated_s = float(ticks * stream.time_base) if ticks else None
        whole_s = container.duration / av.time_base if container.duration else None
        return VideoInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            width=frame.size[0],
            height=frame.size[1],
            fps=float(rate) if rate else None,
            duration_s=stated_s or whole_s,
            rotation_deg=frame.picture.rotation,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
            time_base=stream.time_base,
        )


def decode(uri: str, start_s: float | None = None) -> Iterator[Frame]:
    """All frames in order of strictly increasing presentation time; with `start_s`, from the key frame before
    it.

    `Frame.index` counts from 0 at the first frame returned.

    Raises:
        NoVideoError: the file is a still picture, or holds no video stream or frame.
        VideoDecodeError: not readable, or damaged; frames before the damage have been yielded by then.
    """
    with open_stream(uri) as (container, stream):
        yield from frames_from(uri, container, stream, start_s)


def frames_from(
    uri: str, container: av.container.InputContainer, stream: av.VideoStream, start_s: float | None
) -> Iterator[Frame]:
    """What `decode` yields, of an open container."""
    if start_s is not None:
        with as_decode_error(uri):
            container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
    yield from _frames(uri, container, stream)


def read_span(uri: str, start_s: float, end_s: float, fps: float) -> Iterator[Frame]:
    """The frames shown at start_s, start_s + 1/fps, … before end_s: at each time the latest frame not after
    it.

    Repeats a frame where the source is slower, skips where it is faster; before the first frame, the first is
    shown.
    """
    num = num_samples(start_s, end_s, fps)
    shown: Frame | None = None
    k = 0
    for frame in _decode_from(uri, start_s):
        while shown is not None and k < num and start_s + k / fps < frame.time_s - 1e-6:
            yield shown
            k += 1
        if k == num:
            return
        shown = frame
    while shown is not None and k < num:
        yield shown
        k += 1


def num_samples(start_s: float, end_s: float, fps: float) -> int:
    """How many of the times start_s + k/fps lie before end_s (within a microsecond)."""
    return max(0, int(np.ceil((end_s - start_s) * fps - 1e-6 * fps)))


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A written run: frames in the file, and where each span begins in it."""

    num_frames: int
    first_frame_of_span: list[int]


def write_run(
    uri: str,
    spans: Sequence[tuple[float, float]],
    path: Path,
    fps: float,
    size: tuple[int, int],
    gop_frames: int = 8,
    crf: int = 14,
) -> RunFile:
    """Decode the contiguous `spans` (start_s, end_s) again and write them as one constant-rate H.264 file.

    `size` is (height, width) in px, both even; frames are resized to cover it and centre cropped. A span
    begins at the first written frame whose time is not before its start, or at the last frame where that is
    past the end.
    """
    _require_contiguous(uri, spans)
    height, width = size
    start_s, end_s = spans[0][0], spans[-1][1]
    images = (frame.covering(width, height) for frame in read_span(uri, start_s, end_s, fps))
    written = write_video(path, images, fps, gop_frames=gop_frames, crf=crf)
    firsts = [min(num_samples(start_s, first_s, fps), written - 1) for first_s, _ in spans]
    return RunFile(num_frames=written, first_frame_of_span=firsts)


def write_video(path: Path, images: Iterable[np.ndarray], fps: float, gop_frames: int = 8, crf: int = 18) -> int:
    """Write (h w 3) uint8 RGB images as H.264 (yuv420p, a key frame every `gop_frames`); returns how many.

    The file appears under its name only when complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"_{os.getpid()}_{path.name}")
    try:
        written = _encode(unfinished, images, Fraction(fps).limit_denominator(1001), gop_frames, crf)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return written


def _encode(path: Path, images: Iterable[np.ndarray], rate: Fraction, gop_frames: int, crf: int) -> int:
    count = 0
    # x264's macroblock tree reads memory it never wrote where frames are small; the file would not repeat.
    x264 = f"keyint={gop_frames}:scenecut=0:mbtree=0"
    options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "x264-params": x264}
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = None
        for image in images:
            if stream is None:
                stream = _h264_stream(container, rate, image.shape, options)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            picture.pts, picture.time_base = count, 1 / rate
            container.mux(stream.encode(picture))
            count += 1
        if stream is None:
            raise VideoDecodeError(f"{path.name}: no frames to write: the span is empty")
        container.mux(stream.encode())
    return count


def _h264_stream(
    container: av.container.OutputContainer, rate: Fraction, shape: tuple[int, ...], options: dict[str, str]
) -> av.VideoStream:
    height, width = shape[:2]
    if height % 2 or width % 2:
        raise CurationError(f"H.264 with yuv420p needs even sizes, not {width}x{height}: change height or width by one")
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = 1
    return stream


def _decode_from(uri: str, start_s: float) -> Iterator[Frame]:
    """Frames from the one shown at `start_s` or earlier on; decodes from the beginning where seeking lands
    too late.
    """
    frames = decode(uri, start_s if start_s > 1.0 else None)
    first = next(frames, None)
    if start_s > 1.0 and (first is None or first.time_s > start_s + 1e-6):
        frames, first = decode(uri), None
    if first is not None:
        yield first
    yield from frames


def _frames(uri: str, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[Frame]:
    clock = PresentationClock(uri, stream.time_base, only_dts=container.format.name in _WITHOUT_PTS)
    base = stream.time_base
    size: tuple[int, int] | None = None
    with as_decode_error(uri):
        for index, picture in enumerate(container.decode(stream)):
            pts = clock.presentation(picture.pts, picture.dts)
            if size is None:
                size = displayed_size(picture, stream.sample_aspect_ratio or Fraction(1))
            yield Frame(index, pts, pts * base.numerator / base.denominator, picture, size)


def _require_contiguous(uri: str, spans: Sequence[tuple[float, float]]) -> None:
    if not spans:
        raise CurationError(f"{uri}: a run needs at least one span")
    for (_, end_s), (start_s, _) in itertools.pairwise(spans):
        if abs(start_s - end_s) > 1e-3:
            raise CurationError(f"{uri}: spans of a run must be contiguous, not {end_s:.3f} s then {start_s:.3f} s")
