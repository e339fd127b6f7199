"""Stream copy: which packets of a source become the file of a clip, and moving them there without decoding.

Packets are in decode order; times are presentation ticks of the source's own clock. Sound is dropped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import Flags

from curation.config_error import CurationError
from curation.container import VideoDecodeError, as_decode_error, open_stream
from curation.store import StoreError

MP4_CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4")
"""Codecs whose copies are .mp4; all others are .mkv, which holds everything."""

LOOKAHEAD_PACKETS = 32
"""Packets past the end of a span after which none that belongs inside can come: twice the deepest reordering."""


class NotCopyableError(VideoDecodeError):
    """A source that decodes, but whose packets cannot be moved as they are."""


class ClipFileError(StoreError):
    """A clip file cannot be written: no fault of the source."""


@dataclass(frozen=True)
class PacketTimes:
    """One packet: presentation time in ticks; a key packet decodes without those before it.

    `is_shown` is false of frames that are decoded only to be referred to, `is_trimmed` true of those that an edit list
    takes away.
    """

    pts: int
    is_key: bool
    is_shown: bool = True
    is_trimmed: bool = False

    @property
    def can_begin(self) -> bool:
        """Whether a file can begin with it."""
        return self.is_key and self.is_shown and not self.is_trimmed


@dataclass(frozen=True)
class PacketTable:
    """The packets of `uri` around a span that begins at `start_pts`, and what their ticks and codec are."""

    uri: str
    start_pts: int
    packets: list[PacketTimes]
    time_base: Fraction
    codec: str

    @property
    def copy_suffix(self) -> str:
        """Of a copy's file name: its container."""
        return ".mp4" if self.codec in MP4_CODECS else ".mkv"

    def num_frames(self, end_pts: int) -> int:
        """Frames that are shown in the span if it ends at `end_pts`."""
        inside = (p for p in self.packets if self.start_pts <= p.pts < end_pts)
        return sum(p.is_shown and not p.is_trimmed for p in inside)


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """A gapless piece of a clip: packets `first` to `last` (both included) without those shown before `start_pts`."""

    first: int
    last: int
    frame_pts: tuple[int, ...]
    """Presentation times of its frames, in order."""
    end_pts: int
    """Just after its last frame: the first frame that it lacks, or the end of the clip."""

    @property
    def start_pts(self) -> int:
        """Presentation time of its first frame."""
        return self.frame_pts[0]

    def durations(self) -> dict[int, int]:
        """How long each frame is shown, in ticks, by its presentation time."""
        ends = (*self.frame_pts[1:], self.end_pts)
        return {pts: end - pts for pts, end in zip(self.frame_pts, ends, strict=True)}


# Paper: SVD (App. C) snaps both ends of a clip to key frames; here: only the start, because a decoder needs nothing
# after a frame to show it, so the end is the longest prefix in decode order that shows every frame up to its last.
def plan_copy(packets: Sequence[PacketTimes], start_pts: int, end_pts: int) -> CopyPlan | None:
    """The longest piece of [start_pts, end_pts) that a copy can hold; None when no key frame lies inside.

    `packets` must reach from a key packet not after the first one inside to LOOKAHEAD_PACKETS past the end, or to the
    end of the file. Leading pictures of the first key frame (shown before it, decoded after it) are left out.
    """
    inside = (n for n, p in enumerate(packets) if p.can_begin and start_pts <= p.pts < end_pts)
    first = next(inside, None)
    if first is None:
        return None
    visible = (p for p in packets[first:] if p.is_shown and not p.is_trimmed)
    shown = sorted(p.pts for p in visible if p.pts >= packets[first].pts)
    last, num_frames = _longest_gapless(packets, first, shown, end_pts)
    end = shown[num_frames] if num_frames < len(shown) else end_pts
    return CopyPlan(first=first, last=last, frame_pts=tuple(shown[:num_frames]), end_pts=min(end, end_pts))


def _longest_gapless(packets: Sequence[PacketTimes], first: int, shown: Sequence[int], end_pts: int) -> tuple[int, int]:
    """Where the longest run of packets from `first` on ends whose n frames are the first n of `shown`, and n."""
    last, num_frames, count, latest = first, 0, 0, shown[0]
    for n, packet in enumerate(packets[first:], first):
        if packet.pts >= end_pts or packet.is_trimmed:
            break
        if packet.is_shown and packet.pts >= shown[0]:
            count, latest = count + 1, max(latest, packet.pts)
            if shown[count - 1] == latest:
                last, num_frames = n, count
    return last, num_frames


def plan_both_ends(packets: Sequence[PacketTimes], start_pts: int, end_pts: int) -> tuple[int, int] | None:
    """SVD's way: the span between the first and the last key frame in [start_pts, end_pts], None when it is empty.

    The end of a video is no key frame, so its last clip ends at the last one: the strict reading, which peers follow.
    """
    keys = [p.pts for p in packets if p.can_begin and start_pts <= p.pts <= end_pts]
    return (min(keys), max(keys)) if len(set(keys)) > 1 else None


def decoding_times(pts: Sequence[int]) -> list[int]:
    """Decoding times for packets whose presentation times, in decode order, are `pts` (Matroska states none).

    They rise strictly and are never later than the presentation times.
    """
    ordered = sorted(pts)
    delay = max((sum(before > after for before in pts[max(0, n - 64) : n]) for n, after in enumerate(pts)), default=0)
    step = max(1, ordered[1] - ordered[0]) if len(ordered) > 1 else 1
    early = [ordered[0] - step * (delay - n) for n in range(min(delay, len(pts)))]
    return early + ordered[: len(pts) - len(early)]


def read_packets(uri: str, start_pts: int, end_pts: int) -> PacketTable:
    """The packets that `plan_copy` needs, without their bytes.

    Raises VideoDecodeError when the source cannot be read, NotCopyableError when it states no usable times.
    """
    found: list[PacketTimes] = []
    time_base, codec, after = Fraction(1), "", 0
    with closing(_packets_from(uri, start_pts)) as packets:
        for packet in packets:
            time_base, codec = packet.time_base, packet.stream.codec_context.codec.canonical_name
            found.append(_times(uri, packet, codec))
            after += found[-1].pts >= end_pts
            if after == LOOKAHEAD_PACKETS:
                break
    return PacketTable(uri, start_pts, found, time_base, codec)


def _times(uri: str, packet: av.Packet, codec: str) -> PacketTimes:
    if packet.pts is None:
        raise NotCopyableError(f"{uri}: packets without a time: give --materialize encode or auto")
    # RFC 6386, 9.1: the fifth bit of a VP8 frame is show_frame. Other codecs keep a hidden frame in a shown one's
    # packet.
    is_shown = codec != "vp8" or bool(bytes(packet)[0] >> 4 & 1)
    return PacketTimes(packet.pts, packet.is_keyframe, is_shown, packet.is_discard)


def _packets_from(uri: str, start_pts: int | None) -> Generator[av.Packet]:
    """Packets of the video stream from the key packet at or before `start_pts` on; from the first one on for None, or
    where seeking lands elsewhere.
    """
    with open_stream(uri) as (source, stream), as_decode_error(uri):
        if start_pts is not None:
            source.seek(start_pts, stream=stream, backward=True)
        packets = (packet for packet in source.demux(stream) if packet.size)
        first = next(packets, None)
        landed = first is not None and first.is_keyframe and first.pts is not None
        if start_pts is None or (first is not None and landed and first.pts <= start_pts):
            if first is not None:
                yield first
            yield from packets
            return
    yield from _packets_from(uri, None)


def copy_packets(table: PacketTable, plan: CopyPlan, path: Path) -> None:
    """Write the packets of `plan` to `path` (.mp4 or .mkv), its first frame at time 0; rotation and pixel aspect stay.

    Raises:
        VideoDecodeError: the source cannot be read.
        NotCopyableError: the container refuses the packets.
        ClipFileError: the file cannot be written.
    """
    kind = "mp4" if path.suffix == ".mp4" else "matroska"
    options = {"movflags": "+faststart"} if kind == "mp4" else {}
    chosen = [n for n in range(plan.first, plan.last + 1) if table.packets[n].pts >= plan.start_pts]
    times = dict(zip(chosen, decoding_times([table.packets[n].pts for n in chosen]), strict=True))
    durations = plan.durations()
    with (
        closing(_packets_from(table.uri, table.start_pts)) as packets,
        _as_write_error(table.uri, path),
        av.open(str(path), "w", format=kind, options=options) as sink,
    ):
        sink.flags |= Flags.bitexact.value
        stream = None
        for n, packet in enumerate(itertools.islice(packets, plan.last + 1)):
            if n in times:
                stream = stream or sink.add_stream_from_template(packet.stream, opaque=True)
                packet.duration = durations.get(packet.pts, 0)
                packet.pts, packet.dts = packet.pts - plan.start_pts, times[n] - plan.start_pts
                packet.stream = stream
                sink.mux(packet)


@contextmanager
def _as_write_error(uri: str, path: Path) -> Iterator[None]:
    try:
        yield
    except CurationError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    except (av.FFmpegError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise NotCopyableError(f"{uri}: cannot be copied ({reason}): give --materialize encode or auto") from error


def cannot_write(path: Path, error: OSError) -> ClipFileError:
    """One line about a file that cannot be written."""
    reason = error.strerror or str(error)
    return ClipFileError(f"{path} cannot be written ({reason}): free space or choose another --output")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is there when the block ends well gets the name `path` in one step."""
    unfinished = path.with_name(f"_{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
