"""The one decode pass: a URI in, cuts, motion scores and the few frames later stages need out."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import av
import cv2

from curation import schema
from curation.candidates import (
    CandidateBuffer,
    ClipAnalysis,
    SpooledClips,
    StoredClip,
    grid_times,
    key_times,
    store,
)
from curation.config import CurationConfig
from curation.isolation import KillableWorker, WorkerDiedError
from curation.picture import Frame, SmallCopy, detection_size
from curation.spool import PictureSpool, SpoolError
from curation.stages.motion import MotionMeter
from curation.stages.scenes import Cut, SceneDetector
from curation.video import NoVideoError, VideoDecodeError, VideoInfo, content_hash, decode, probe

# Cuts become certain some frames after the event; where that takes longer than both of these, scenes are split for
# length without waiting.
_LONGEST_LAG_S = 10.0
_LONGEST_LAG_FRAMES = 64
# A decoder still at work fails by itself at the time limit; one that does not is killed this much later.
_GRACE = 1.1


@dataclass(frozen=True, kw_only=True)
class VideoAnalysis:
    """One video: values of the `videos` columns (status is ok, empty, failed or quarantined) and its clips in order of
    time.
    """

    video: dict[str, object]
    clips: Sequence[ClipAnalysis] = field(default_factory=list)


def analyse_video(uri: str, config: CurationConfig, source_sha256: str | None = None) -> VideoAnalysis:
    """Decode `uri` once; never raises for anything the file contains or lacks.

    Status `failed` carries error_stage, error_type and error_message and no clips (frames before the damage are not
    used); `empty` is a readable file with no moving picture; `quarantined` has crashed or hung the decoder
    `max_attempts` times. The hash of the bytes is taken again, for the file may have changed since `source_sha256` was.
    The work happens in a child process, so that not even a crash or a hang gets out.

    Raises:
        SpoolError: the temporary folder is full.
    """
    video: dict[str, object] = {"source_uri": uri, "source_sha256": source_sha256, "attempts": 1}
    try:
        digest, size = content_hash(uri)
    except OSError as error:
        return VideoAnalysis(video=_failed(video, "read", error))
    video |= {"source_sha256": digest, "video_id": schema.video_id(digest), "size_bytes": size}
    return _in_child(video, config)


def _in_child(video: dict[str, object], config: CurationConfig) -> VideoAnalysis:
    """`decode_pass` in a child, in a fresh one when that has died."""
    started = time.perf_counter()
    spool, last = PictureSpool(), None
    for attempt in range(1, config.decode.max_attempts + 1):
        try:
            tried = video | {"attempts": attempt}
            found, clips = _worker(config).call(tried, config, descriptor=spool.descriptor)
            return VideoAnalysis(video=found, clips=SpooledClips(clips, spool))
        except WorkerDiedError as error:
            last = error
    assert last is not None
    tried = {"attempts": config.decode.max_attempts, "wall_s": time.perf_counter() - started}
    return VideoAnalysis(video=_failed(video | tried, "decode", last, status="quarantined"))


def decode_pass(video: dict[str, object], config: CurationConfig) -> VideoAnalysis:
    """The decoding of `analyse_video`, in this process; `video` names source_uri and source_sha256."""
    spool = PictureSpool()
    found, clips = _decoded(video, config, spool)
    return VideoAnalysis(video=found, clips=SpooledClips(clips, spool))


def decode_for_parent(
    video: dict[str, object], config: CurationConfig, descriptor: int
) -> tuple[dict[str, object], list[StoredClip]]:
    """`decode_pass` in a child process: pictures go to the parent's spool, whose file is open as `descriptor`."""
    return _decoded(video, config, PictureSpool(descriptor))


def _decoded(
    video: dict[str, object], config: CurationConfig, spool: PictureSpool
) -> tuple[dict[str, object], list[StoredClip]]:
    """Values of the `videos` columns, and the clips."""
    cv2.setNumThreads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    clips: list[StoredClip] = []
    try:
        journey = _Journey(str(video["source_uri"]), str(video["source_sha256"]), config, spool)
        clips = list(journey.clips())
        found = video | journey.facts() | {"num_clips": len(clips), "status": "ok"}
    except NoVideoError as error:
        clips, found = [], _failed(video, "decode", error, status="empty")
    except VideoDecodeError as error:
        clips, found = [], _failed(video, "decode", error)
    except SpoolError:
        raise
    except (cv2.error, av.FFmpegError, MemoryError, ValueError, RuntimeError) as error:
        clips, found = [], _failed(video, "analyse", error)
    return found | {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}, clips


@functools.lru_cache(maxsize=1)
def _worker(config: CurationConfig) -> KillableWorker[tuple[dict[str, object], list[StoredClip]]]:
    """The child process of this process; it serves video after video and is replaced only when it had to be
    killed.
    """
    limit_s = config.decode.time_limit_s * _GRACE + 5.0
    return KillableWorker(decode_for_parent, limit_s, config.decode.memory_limit_bytes)


def _failed(video: dict[str, object], stage: str, error: Exception, status: str = "failed") -> dict[str, object]:
    reason = " ".join(str(error).split()) or type(error).__name__
    details = {"error_stage": stage, "error_type": type(error).__name__, "error_message": reason, "num_clips": 0}
    return video | details | {"status": status}


@dataclass(frozen=True)
class _Mark:
    """A frame boundary: index, pts and time of the first frame after it, and what kind of cut it is."""

    frame: int
    pts: int
    time_s: float
    kind: str


@dataclass(frozen=True)
class _Tick:
    """What is remembered of every frame of the open clip."""

    pts: int
    time_s: float
    digest: bytes


class _Journey:
    """All frames of one video through detector, motion meter and candidate buffer, clips out as their ends
    become certain.
    """

    def __init__(self, uri: str, source_sha256: str, config: CurationConfig, spool: PictureSpool) -> None:
        self._uri, self._sha256, self._config, self._spool = uri, source_sha256, config, spool
        self._info: VideoInfo = probe(uri)
        self._detector = SceneDetector(config.scenes)
        self._motion = MotionMeter(config.motion, self._info.fps)
        self._candidates = CandidateBuffer(config.decode, config.scenes.max_clip_s)
        self._small_size: tuple[int, int] | None = None
        self._clock: list[_Tick] = []
        self._clock_first = 0
        self._num_clips = 0
        self._start: _Mark | None = None
        self._first_s = self._end_s = 0.0
        self._num_frames = 0
        self._last_frame_ticks = 0

    def clips(self) -> Iterator[StoredClip]:
        """Every clip of the video, in order; raises VideoDecodeError when the video is damaged."""
        deadline = time.monotonic() + self._config.decode.time_limit_s
        for frame in decode(self._uri):
            if time.monotonic() > deadline:
                limit_s = self._config.decode.time_limit_s
                raise VideoDecodeError(
                    f"{self._uri}: decoding took longer than {limit_s} s: raise time_limit_s, then --retry-failed"
                )
            small = self._look_at(frame)
            for cut in self._detector.feed(frame.index, frame.time_s, small.bgr):
                yield from self._close(self._mark(cut))
            yield from self._close_overlong(self._certain_s(frame.time_s))
        if self._start is None:
            raise NoVideoError(f"{self._uri}: no frame can be decoded: check that the file is complete")
        for cut in self._detector.finish():
            yield from self._close(self._mark(cut))
        yield from self._close(self._end_mark())

    def facts(self) -> dict[str, object]:
        """The `videos` columns that decoding has settled."""
        duration_s = self._end_s - self._first_s
        return {
            "container": self._info.container,
            "codec": self._info.codec,
            "duration_s": duration_s,
            "fps": self._num_frames / duration_s,
            "num_frames": self._num_frames,
            "width": self._info.width,
            "height": self._info.height,
        }

    def _look_at(self, frame: Frame) -> SmallCopy:
        if self._start is None:
            self._start = _Mark(frame.index, frame.pts, frame.time_s, "start")
            self._first_s = frame.time_s
            self._small_size = detection_size(frame.picture, self._config.scenes.detection_px)
        assert self._small_size is not None
        small = SmallCopy(frame.picture, self._small_size)
        self._clock.append(_Tick(frame.pts, frame.time_s, small.digest()))
        self._num_frames, self._last_frame_ticks = frame.index + 1, frame.picture.duration or 0
        if self._motion.wants(frame.index, frame.time_s):
            long_side_px = self._motion.long_side_px
            image = frame.fitted(long_side_px) if long_side_px else frame.image
            self._motion.feed(frame.index, frame.time_s, image)
        self._candidates.offer(frame)
        return small

    def _mark(self, cut: Cut) -> _Mark:
        tick = self._clock[max(0, cut.frame - self._clock_first)]  # 0: a split for length has gone past it
        return _Mark(cut.frame, tick.pts, tick.time_s, cut.kind)

    def _certain_s(self, now_s: float) -> float:
        """The time before which no cut will come any more."""
        known = self._detector.certain_before - self._clock_first
        certain_s = self._clock[max(0, known)].time_s if known < len(self._clock) else now_s
        long_ago_s = self._clock[max(0, len(self._clock) - _LONGEST_LAG_FRAMES)].time_s
        return max(certain_s, min(now_s - _LONGEST_LAG_S, long_ago_s))

    def _end_mark(self) -> _Mark:
        """Just after the last frame: as long as the file says it lasts, else one mean frame interval (with a single
        frame, one at the stated rate).
        """
        last, span = self._clock[-1], self._num_frames - 1
        mean_s = (last.time_s - self._first_s) / span if span else 1.0 / (self._info.fps or 25.0)
        ticks = self._last_frame_ticks or max(1, round(mean_s / self._info.time_base))
        base = self._info.time_base
        self._end_s = (last.pts + ticks) * base.numerator / base.denominator
        return _Mark(self._num_frames, last.pts + ticks, self._end_s, "end")

    def _close(self, end: _Mark) -> Iterator[StoredClip]:
        """The clip between the last mark and `end`; none where a split for length has already gone past it."""
        yield from self._close_overlong(end.time_s)
        assert self._start is not None
        if end.frame <= self._start.frame:
            return
        yield self._advance(end)

    def _close_overlong(self, certain_s: float) -> Iterator[StoredClip]:
        """Split the open scene while it is longer than allowed at `certain_s`, before which no more cuts are
        expected.
        """
        assert self._start is not None
        while certain_s - self._start.time_s > self._config.scenes.max_clip_s + 1e-6:
            middle = self._mark_from(self._start.time_s + self._config.scenes.max_clip_s)
            if middle is None or middle.time_s >= certain_s:
                return
            yield self._advance(middle)

    def _advance(self, end: _Mark) -> StoredClip:
        assert self._start is not None
        clip = self._clip(self._start, end)
        del self._clock[: end.frame - self._clock_first]
        self._clock_first, self._start = end.frame, end
        return clip

    def _mark_from(self, time_s: float) -> _Mark | None:
        """The first frame not before `time_s`, as a mark of kind max_length."""
        for offset, tick in enumerate(self._clock):
            if tick.time_s >= time_s - 1e-6:
                return _Mark(self._clock_first + offset, tick.pts, tick.time_s, "max_length")
        return None

    def _clear_of_transitions(self, start: _Mark, end: _Mark) -> tuple[float, float]:
        """The time in s between start and end that no fade or dissolve at either of them reaches."""
        inset_s = self._config.decode.edge_inset_s
        soft = ("fade", "dissolve")
        return (
            start.time_s + (inset_s if start.kind in soft else 0.0),
            end.time_s - (inset_s if end.kind in soft else 0.0),
        )

    def _digest(self, num_frames: int) -> str:
        """Of the first frames of the open clip; the same in whatever container they come."""
        return hashlib.sha256(b"".join(tick.digest for tick in self._clock[:num_frames])).hexdigest()[:32]

    def _clip(self, start: _Mark, end: _Mark) -> StoredClip:
        duration_s, num_frames = end.time_s - start.time_s, end.frame - start.frame
        inset_s, num_grid = self._config.decode.edge_inset_s, self._config.decode.grid_frames
        chosen = self._candidates.nearest(start.frame, end.frame, key_times(start.time_s, end.time_s, inset_s))
        at_s = grid_times(start.time_s, end.time_s, num_grid, inset_s)
        grid = self._candidates.nearest(start.frame, end.frame, at_s)
        row: dict[str, object] = {
            "clip_id": schema.clip_id(self._sha256, start.pts, end.pts),
            "video_id": schema.video_id(self._sha256),
            "clip_index": self._num_clips,
            "source_uri": self._uri,
            "source_sha256": self._sha256,
            "start_s": start.time_s,
            "end_s": end.time_s,
            "duration_s": duration_s,
            "fps": num_frames / duration_s,
            "start_pts": start.pts,
            "end_pts": end.pts,
            "start_frame": start.frame,
            "num_frames": num_frames,
            "width": self._info.width,
            "height": self._info.height,
            "cut_in": start.kind,
            "cut_out": end.kind,
            "content_digest": self._digest(num_frames),
            "frame_times_s": [candidate.time_s for candidate in chosen],
            "grid_times_s": [candidate.time_s for candidate in grid],
            "motion_score": self._motion.take(start.frame, end.frame, *self._clear_of_transitions(start, end)),
        }
        self._num_clips += 1
        self._candidates.drop_before(end.frame)
        return store(row, chosen, grid, self._config.decode, self._spool)
