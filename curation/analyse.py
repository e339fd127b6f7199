"""The one decode pass: a URI in, cuts, motion scores and the few frames later stages need out."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from curation import schema
from curation.candidates import CandidateBuffer, grid_times, key_times
from curation.config import CurationConfig
from curation.isolation import KillableWorker, WorkerDiedError
from curation.stages.motion import MotionMeter
from curation.stages.scenes import Cut, SceneDetector
from curation.video import Frame, NoVideoError, VideoDecodeError, VideoInfo, content_hash, decode, probe

# Cuts become certain some frames after the event; scenes are split for length only this much later.
_LONGEST_LAG_S = 3.0


@dataclass(frozen=True, kw_only=True)
class ClipAnalysis:
    """One clip as it leaves the decoder.

    row: values of the `clips` columns known so far (all span columns, frame_times_s, grid_times_s,
    motion_score). frames: (3 h w 3) uint8 RGB, first, middle, last frame. grid: (4 h w 3) uint8 RGB, evenly
    spaced frames, in order of time.
    """

    row: dict[str, object]
    frames: np.ndarray
    grid: np.ndarray


@dataclass(frozen=True, kw_only=True)
class VideoAnalysis:
    """One video: values of the `videos` columns (status is ok, empty or failed) and its clips in order of
    time.
    """

    video: dict[str, object]
    clips: list[ClipAnalysis] = field(default_factory=list)


def analyse_video(uri: str, config: CurationConfig, source_sha256: str | None = None) -> VideoAnalysis:
    """Decode `uri` once; never raises for anything the file contains or lacks.

    Status `failed` carries error_stage, error_type and error_message and no clips (frames before the damage
    are not used); `empty` is a readable file with no moving picture. `source_sha256` is computed when not
    given. The work happens in a child process, so that not even a crash or a hang of the decoder gets out.
    """
    video: dict[str, object] = {"source_uri": uri, "source_sha256": source_sha256}
    try:
        digest, size = content_hash(uri)
    except OSError as error:
        return _failed(video, "read", error)
    video |= {"source_sha256": digest, "video_id": schema.video_id(digest), "size_bytes": size}
    try:
        return _worker(config).call(video, config)
    except WorkerDiedError as error:
        return _failed(video, "decode", error)


def decode_pass(video: dict[str, object], config: CurationConfig) -> VideoAnalysis:
    """The decoding of `analyse_video`, in this process; `video` names source_uri and source_sha256."""
    cv2.setNumThreads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        journey = _Journey(str(video["source_uri"]), str(video["source_sha256"]), config)
        clips = list(journey.clips())
        facts = journey.facts() | {"num_clips": len(clips), "status": "ok"}
        analysis = VideoAnalysis(video=video | facts, clips=clips)
    except NoVideoError as error:
        analysis = _failed(video, "decode", error, status="empty")
    except VideoDecodeError as error:
        analysis = _failed(video, "decode", error)
    except (cv2.error, MemoryError) as error:
        analysis = _failed(video, "analyse", error)
    analysis.video.update(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall)
    return analysis


@functools.lru_cache(maxsize=1)
def _worker(config: CurationConfig) -> KillableWorker[VideoAnalysis]:
    """The child process of this process; it serves video after video and is replaced only when it had to be
    killed.
    """
    return KillableWorker(decode_pass, config.decode.time_limit_s, config.decode.memory_limit_bytes)


def _failed(video: dict[str, object], stage: str, error: Exception, status: str = "failed") -> VideoAnalysis:
    reason = " ".join(str(error).split()) or type(error).__name__
    details = {"error_stage": stage, "error_type": type(error).__name__, "error_message": reason, "num_clips": 0}
    return VideoAnalysis(video=video | details | {"status": status})


@dataclass(frozen=True)
class _Mark:
    """A frame boundary: index, pts and time of the first frame after it, and what kind of cut it is."""

    frame: int
    pts: int
    time_s: float
    kind: str


class _Journey:
    """All frames of one video through detector, motion meter and candidate buffer, clips out as their ends
    become certain.
    """

    def __init__(self, uri: str, source_sha256: str, config: CurationConfig) -> None:
        self._uri, self._sha256, self._config = uri, source_sha256, config
        self._info: VideoInfo = probe(uri)
        self._detector = SceneDetector(config.scenes)
        self._motion = MotionMeter(config.motion)
        self._candidates = CandidateBuffer(config.decode.key_frame_px, config.scenes.max_clip_s)
        self._clock: list[tuple[int, float]] = []
        self._clock_first = 0
        self._num_clips = 0
        self._start: _Mark | None = None
        self._first_s = self._end_s = 0.0
        self._num_frames = 0

    def clips(self) -> Iterator[ClipAnalysis]:
        """Every clip of the video, in order; raises VideoDecodeError when the video is damaged."""
        deadline = time.monotonic() + self._config.decode.time_limit_s
        for frame in decode(self._uri):
            if time.monotonic() > deadline:
                raise VideoDecodeError(f"{self._uri}: decoding took longer than {self._config.decode.time_limit_s} s")
            self._look_at(frame)
            yield from self._close_overlong(frame.time_s - _LONGEST_LAG_S)
            for cut in self._detector.feed(frame.index, frame.for_detection(self._config.scenes.detection_px)):
                yield from self._close(self._mark(cut))
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

    def _look_at(self, frame: Frame) -> None:
        if self._start is None:
            self._start = _Mark(frame.index, frame.pts, frame.time_s, "start")
            self._first_s = frame.time_s
        self._clock.append((frame.pts, frame.time_s))
        self._num_frames = frame.index + 1
        if self._motion.wants(frame.time_s):
            self._motion.feed(frame.index, frame.time_s, frame.fitted(2 * self._config.motion.short_side_px))
        self._candidates.offer(frame)

    def _mark(self, cut: Cut) -> _Mark:
        if cut.frame < self._clock_first:  # a split for length has gone past it
            return _Mark(cut.frame, *self._clock[0], cut.kind)
        pts, time_s = self._clock[cut.frame - self._clock_first]
        return _Mark(cut.frame, pts, time_s, cut.kind)

    def _end_mark(self) -> _Mark:
        """Just after the last frame: one mean frame interval later (the stated rate counts where there is a
        single frame).
        """
        pts, time_s = self._clock[-1]
        span = self._num_frames - 1
        step_s = (time_s - self._first_s) / span if span else 1.0 / (self._info.fps or 25.0)
        self._end_s = time_s + step_s
        return _Mark(self._num_frames, pts + max(1, round(step_s / self._info.time_base)), self._end_s, "end")

    def _close(self, end: _Mark) -> Iterator[ClipAnalysis]:
        """The clip between the last mark and `end`; none where a split for length has already gone past it."""
        yield from self._close_overlong(end.time_s)
        assert self._start is not None
        if end.frame <= self._start.frame:
            return
        yield self._advance(end)

    def _close_overlong(self, certain_s: float) -> Iterator[ClipAnalysis]:
        """Split the open scene while it is longer than allowed at `certain_s`, before which no more cuts are
        expected.
        """
        assert self._start is not None
        while certain_s - self._start.time_s > self._config.scenes.max_clip_s + 1e-6:
            middle = self._mark_from(self._start.time_s + self._config.scenes.max_clip_s)
            if middle is None:
                return
            yield self._advance(middle)

    def _advance(self, end: _Mark) -> ClipAnalysis:
        assert self._start is not None
        clip = self._clip(self._start, end)
        del self._clock[: end.frame - self._clock_first]
        self._clock_first, self._start = end.frame, end
        return clip

    def _mark_from(self, time_s: float) -> _Mark | None:
        """The first frame not before `time_s`, as a mark of kind max_length."""
        for offset, (pts, at_s) in enumerate(self._clock):
            if at_s >= time_s - 1e-6:
                return _Mark(self._clock_first + offset, pts, at_s, "max_length")
        return None

    def _clear_of_transitions(self, start: _Mark, end: _Mark) -> tuple[float, float]:
        """The time in s between start and end that no fade or dissolve at either of them reaches."""
        inset_s = self._config.decode.edge_inset_s
        soft = ("fade", "dissolve")
        return (
            start.time_s + (inset_s if start.kind in soft else 0.0),
            end.time_s - (inset_s if end.kind in soft else 0.0),
        )

    def _clip(self, start: _Mark, end: _Mark) -> ClipAnalysis:
        duration_s = end.time_s - start.time_s
        inset_s = self._config.decode.edge_inset_s
        chosen = self._candidates.nearest(start.frame, end.frame, key_times(start.time_s, end.time_s, inset_s))
        grid = self._candidates.nearest(start.frame, end.frame, grid_times(start.time_s, end.time_s, 4, inset_s))
        row = {
            "clip_id": schema.clip_id(self._sha256, start.pts, end.pts),
            "video_id": schema.video_id(self._sha256),
            "clip_index": self._num_clips,
            "source_uri": self._uri,
            "source_sha256": self._sha256,
            "start_s": start.time_s,
            "end_s": end.time_s,
            "duration_s": duration_s,
            "fps": (end.frame - start.frame) / duration_s,
            "start_pts": start.pts,
            "end_pts": end.pts,
            "start_frame": start.frame,
            "num_frames": end.frame - start.frame,
            "width": self._info.width,
            "height": self._info.height,
            "cut_in": start.kind,
            "cut_out": end.kind,
            "frame_times_s": [candidate.time_s for candidate in chosen],
            "grid_times_s": [candidate.time_s for candidate in grid],
            "motion_score": self._motion.take(start.frame, end.frame, *self._clear_of_transitions(start, end)),
        }
        self._num_clips += 1
        self._candidates.drop_before(end.frame)
        small = [candidate.reduced(self._config.decode.grid_frame_px) for candidate in grid]
        return ClipAnalysis(row=row, frames=np.stack([c.image for c in chosen]), grid=np.stack(small))
