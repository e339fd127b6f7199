"""Small frames kept while a clip is open, from which its first, middle, last and grid frames are taken when it ends;
and the form in which a clip leaves the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np

from curation.decode_config import DecodeConfig
from curation.picture import Frame
from curation.spool import PictureSpool, Stored

MOST_PER_CLIP = 120


@dataclass(frozen=True, kw_only=True)
class ClipAnalysis:
    """One clip as it leaves the decoder.

    row: values of the `clips` columns known so far (all span columns, content_digest, frame_times_s, grid_times_s,
    motion_score). frames: (3 h w 3) uint8 RGB, first, middle, last frame. grid: (n h w 3) uint8 RGB, evenly
    spaced frames, in order of time.
    """

    row: dict[str, object]
    frames: np.ndarray
    grid: np.ndarray


@dataclass(frozen=True)
class Candidate:
    """A kept frame: index in the video, presentation time in s, (h w 3) uint8 RGB."""

    index: int
    time_s: float
    image: np.ndarray

    @classmethod
    def of(cls, frame: Frame, config: DecodeConfig) -> Candidate:
        """`frame` at the size in which it is kept."""
        return cls(frame.index, frame.time_s, frame.fitted(config.key_frame_px))

    def reduced(self, long_side_px: int) -> np.ndarray:
        """The image with its long side at most `long_side_px`."""
        height, width = self.image.shape[:2]
        scale = long_side_px / max(height, width)
        if scale >= 1.0:
            return self.image
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)


class CandidateBuffer:
    """Keeps `candidate_fps` frames a second, and at most about 120 for the longest clip allowed."""

    def __init__(self, config: DecodeConfig, longest_clip_s: float) -> None:
        self._config = config
        self._interval_s = max(1.0 / config.candidate_fps, longest_clip_s / MOST_PER_CLIP)
        self._kept: list[Candidate] = []
        self._latest: Frame | None = None

    def offer(self, frame: Frame) -> None:
        """Keep `frame` when it is due."""
        self._latest = frame
        if not self._kept or frame.time_s >= self._kept[-1].time_s + self._interval_s:
            self._keep(frame)

    def nearest(self, first: int, end: int, times_s: Sequence[float]) -> list[Candidate]:
        """For each time the nearest kept frame of [first, end).

        A clip of a few frames at a very high rate may have none of its own: the nearest of all is taken, and
        its time tells.
        """
        inside = [candidate for candidate in self._kept if first <= candidate.index < end] or self._kept
        return [min(inside, key=lambda candidate: abs(candidate.time_s - time_s)) for time_s in times_s]

    def drop_before(self, end: int) -> None:
        """Forget the frames before index `end`, where the next clip begins; that clip has at least one frame
        at once.
        """
        assert self._latest is not None, "frames are offered before clips are closed"
        remaining = [candidate for candidate in self._kept if candidate.index >= end]
        if remaining or self._latest.index >= end:
            self._kept = remaining
        if not remaining and self._latest.index >= end:
            self._keep(self._latest)

    def _keep(self, frame: Frame) -> None:
        self._kept.append(Candidate.of(frame, self._config))


@dataclass(frozen=True)
class StoredClip:
    """A ClipAnalysis whose pictures are in a spool."""

    row: dict[str, object]
    frames: Stored
    grid: Stored


class SpooledClips(Sequence[ClipAnalysis]):
    """Clips in order of time; their pictures are read from the spool when one is looked at."""

    def __init__(self, clips: Sequence[StoredClip], spool: PictureSpool) -> None:
        self._clips, self._spool = clips, spool

    def __len__(self) -> int:
        return len(self._clips)

    @overload
    def __getitem__(self, index: int) -> ClipAnalysis: ...

    @overload
    def __getitem__(self, index: slice) -> SpooledClips: ...

    def __getitem__(self, index: int | slice) -> ClipAnalysis | SpooledClips:
        if isinstance(index, slice):
            return SpooledClips(self._clips[index], self._spool)
        clip = self._clips[index]
        return ClipAnalysis(row=clip.row, frames=self._spool.read(clip.frames), grid=self._spool.read(clip.grid))


def store(
    row: dict[str, object],
    chosen: Sequence[Candidate],
    grid: Sequence[Candidate],
    config: DecodeConfig,
    spool: PictureSpool,
) -> StoredClip:
    """The clip of `row` with its three key frames and its evenly spaced ones."""
    frames = np.stack([candidate.image for candidate in chosen])
    small = np.stack([candidate.reduced(config.grid_frame_px) for candidate in grid])
    return StoredClip(row, spool.add(frames), spool.add(small))


def key_times(start_s: float, end_s: float, inset_s: float) -> list[float]:
    """Times of first, middle and last frame: the outer two moved inwards by `inset_s`, at most 1/8 of the
    clip.
    """
    inset = min(inset_s, (end_s - start_s) / 8)
    return [start_s + inset, (start_s + end_s) / 2, end_s - inset]


def grid_times(start_s: float, end_s: float, num: int, inset_s: float) -> list[float]:
    """`num` times evenly spaced from the first to the last key time."""
    first_s, _, last_s = key_times(start_s, end_s, inset_s)
    return [float(time_s) for time_s in np.linspace(first_s, last_s, num)]
