"""The stored pictures of clips once more: when a later stage has changed, only the frames at the stored times are read
again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import cv2

from curation.candidates import Candidate, ClipAnalysis, SpooledClips, StoredClip, store
from curation.config import CurationConfig
from curation.isolation import KillableWorker, WorkerDiedError
from curation.picture import Frame
from curation.spool import PictureSpool, Stored
from curation.video import VideoDecodeError, decode, frames_from, open_stream

# Within this distance decoding on is cheaper than seeking, which goes back to a key frame.
_READ_ON_S = 2.0
# Containers whose presentation times are the same wherever reading begins; of others the beginning is read too.
_SEEKABLE = ("mp4", "matroska")
# A seek may land after frames that are shown before its key frame: then one from this much earlier is tried.
_BACK_S = (0.0, 5.0)
_GRACE_S = 5.0


def reread_pictures(uri: str, rows: Sequence[dict], config: CurationConfig) -> Sequence[ClipAnalysis]:
    """The pictures of `rows`, clips of one video, at the times their columns frame_times_s and grid_times_s name.

    They are, bit for bit, those of the decode pass with the same `config.decode`. The work happens in a child process
    that can be killed.

    Raises:
        VideoDecodeError: the source is gone or damaged, is not the one the rows were made from, or kills the decoder.
    """
    if not rows:
        return []
    for attempt in range(1, config.decode.max_attempts + 1):
        spool = PictureSpool()
        try:
            clips = _worker(config).call(uri, [dict(row) for row in rows], config, descriptor=spool.descriptor)
            return SpooledClips(clips, spool)
        except WorkerDiedError as error:
            if attempt == config.decode.max_attempts:
                raise VideoDecodeError(f"{uri}: cannot be read again: {error}") from error
    raise AssertionError("max_attempts is at least 1")


def reread_here(uri: str, rows: Sequence[dict], config: CurationConfig) -> Sequence[ClipAnalysis]:
    """The work of `reread_pictures`, in this process."""
    spool = PictureSpool()
    return SpooledClips(_reread(uri, rows, config, spool), spool)


def reread_for_parent(uri: str, rows: Sequence[dict], config: CurationConfig, descriptor: int) -> list[StoredClip]:
    """The same in a child process: pictures go to the parent's spool, whose file is open as `descriptor`."""
    return _reread(uri, rows, config, PictureSpool(descriptor))


def _reread(uri: str, rows: Sequence[dict], config: CurationConfig, spool: PictureSpool) -> list[StoredClip]:
    cv2.setNumThreads(1)
    wanted = {time_s for row in rows for time_s in _times_s(row)}
    size = (int(rows[0]["width"]), int(rows[0]["height"]))
    found: dict[float, Stored] = {}
    for frame in _sought(uri, sorted(wanted)):
        found[frame.time_s] = spool.add(Candidate.of(_sized(frame, size), config.decode).image)
    missing = wanted - found.keys()
    if missing:
        raise VideoDecodeError(
            f"{uri}: no frame at {min(missing):.6f} s, where there was one: the file has changed, curate it again"
        )

    def candidates(times_s: Sequence[float]) -> list[Candidate]:
        return [Candidate(0, time_s, spool.read(found[time_s])) for time_s in times_s]

    return [
        store(row, candidates(row["frame_times_s"]), candidates(row["grid_times_s"]), config.decode, spool)
        for row in rows
    ]


def _times_s(row: dict) -> list[float]:
    return [*row["frame_times_s"], *row["grid_times_s"]]


def _sized(frame: Frame, size: tuple[int, int]) -> Frame:
    """`frame` as displayed in its own video, whose first frame decided the size."""
    return replace(frame, size=size)


def _sought(uri: str, times_s: Sequence[float]) -> Iterator[Frame]:
    """The frames at exactly `times_s` (ascending), as far as they exist: first by seeking, then from further back, and
    those that are still missing from the beginning.
    """
    missing = list(times_s)
    with open_stream(uri) as (container, stream):
        can_seek = any(name in container.format.name for name in _SEEKABLE)
        for back_s in _BACK_S if can_seek else ():
            found = set()
            for stretch in _stretches(missing):
                for frame in _in_stretch(frames_from(uri, container, stream, max(0.0, stretch[0] - back_s)), stretch):
                    if not frame.picture.is_corrupt:
                        found.add(frame.time_s)
                        yield frame
            missing = [time_s for time_s in missing if time_s not in found]
    if missing:
        yield from _in_stretch(decode(uri), missing)


def _in_stretch(frames: Iterable[Frame], times_s: Sequence[float]) -> Iterator[Frame]:
    """Those of `frames` at one of `times_s`; stops after the last."""
    wanted = set(times_s)
    for frame in frames:
        if frame.time_s in wanted:
            yield frame
        if frame.time_s >= times_s[-1]:
            return


def _stretches(times_s: Sequence[float]) -> list[list[float]]:
    """Ascending times in groups without a large gap."""
    groups: list[list[float]] = []
    for time_s in times_s:
        if groups and time_s - groups[-1][-1] <= _READ_ON_S:
            groups[-1].append(time_s)
        else:
            groups.append([time_s])
    return groups


@functools.lru_cache(maxsize=1)
def _worker(config: CurationConfig) -> KillableWorker[list[StoredClip]]:
    limit_s = config.decode.time_limit_s + _GRACE_S
    return KillableWorker(reread_for_parent, limit_s, config.decode.memory_limit_bytes)
