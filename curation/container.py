"""Opening containers with PyAV: the one stream that is the video, presentation times to trust, errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction

import av

from curation.config_error import CurationError
from curation.store import open_file

STILL_FORMATS = ("image2", "tty", "bin", "xbin", "adf", "idf")
ATTACHED_PICTURE = 0x400
LARGEST_BACKWARD_STEP_S = 1.0


class VideoDecodeError(CurationError):
    """A source that cannot be read as video to its end."""


class NoVideoError(VideoDecodeError):
    """A readable file without a moving picture."""


@contextmanager
def open_stream(uri: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its video stream, decoded by one thread; local files only, unless `uri` has a scheme."""
    with ExitStack() as stack:
        with as_decode_error(uri):
            source = stack.enter_context(open_file(uri)) if "://" in uri else f"file:{uri}"
            options = {"protocol_whitelist": "file"}
            container = stack.enter_context(av.open(source, options=options, metadata_errors="replace"))
        yield container, _video_stream(uri, container)


def _video_stream(uri: str, container: av.container.InputContainer) -> av.VideoStream:
    name = container.format.name
    if name in STILL_FORMATS or name.endswith("_pipe"):
        raise NoVideoError(f"{uri}: {name} is a still picture or text, not a video: leave it out of the input")
    stream = container.streams.best("video")
    if stream is None or int(stream.disposition) & ATTACHED_PICTURE:
        raise NoVideoError(f"{uri}: no video stream: leave it out of the input")
    if stream.codec_context is None:
        raise VideoDecodeError(f"{uri}: there is no decoder for its codec: re-encode the file")
    stream.codec_context.thread_count = 1
    return stream


@contextmanager
def as_decode_error(uri: str) -> Iterator[None]:
    """Errors of libav and of the file system as one line naming the source."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise VideoDecodeError(f"{uri}: cannot be decoded ({reason}): replace or remove the file") from error


class PresentationClock:
    """Strictly increasing presentation times, also from containers that state them wrongly.

    Takes whichever of pts and dts has run backwards less often so far (the rule of libavcodec's best-effort
    timestamps), and moves a time that is still not later than the one before to one tick after it. A frame without any
    time comes as long after the one before as that came after its own. `only_dts`: the container knows no pts.
    """

    def __init__(self, uri: str, time_base: Fraction, only_dts: bool = False) -> None:
        self.uri, self.time_base, self.only_dts = uri, time_base, only_dts
        self.last: int | None = None
        self.last_step = 1
        self.last_pts: int | None = None
        self.last_dts: int | None = None
        self.faulty_pts = self.faulty_dts = 0

    def presentation(self, pts: int | None, dts: int | None) -> int:
        """The time, in ticks, of the next frame out of the decoder."""
        pts = None if self.only_dts else pts
        self.faulty_pts += pts is not None and self.last_pts is not None and pts <= self.last_pts
        self.faulty_dts += dts is not None and self.last_dts is not None and dts <= self.last_dts
        self.last_pts, self.last_dts = (pts if pts is not None else dts), (dts if dts is not None else pts)
        stated = pts if pts is not None and (dts is None or self.faulty_pts <= self.faulty_dts) else dts
        if self.last is None:
            self.last = stated or 0
        else:
            self.last_step = max(1, self._plausible(stated) - self.last)
            self.last += self.last_step
        return self.last

    def _plausible(self, stated: int | None) -> int:
        assert self.last is not None
        if stated is None:
            return self.last + self.last_step
        if stated > self.last:
            return stated
        back_s = float((self.last - stated) * self.time_base)
        if back_s > LARGEST_BACKWARD_STEP_S:
            raise VideoDecodeError(f"{self.uri}: presentation time jumps back by {back_s:.2f} s: remux the file")
        return stated
