"""The one decode pass: a URI in, cuts, motion scores and the few frames later stages need out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from curation.config import CurationConfig


@dataclass(frozen=True, kw_only=True)
class ClipAnalysis:
    """One clip as it leaves the decoder.

    row: values of the `clips` columns known so far (all span columns, frame_times_s, grid_times_s, motion_score).
    frames: (3 h w 3) uint8 RGB, first, middle, last frame.
    grid: (4 h w 3) uint8 RGB, evenly spaced frames, in order of time.
    """

    row: dict[str, object]
    frames: np.ndarray
    grid: np.ndarray


@dataclass(frozen=True, kw_only=True)
class VideoAnalysis:
    """One video: values of the `videos` columns (status is ok, empty or failed) and its clips in order of time."""

    video: dict[str, object]
    clips: list[ClipAnalysis] = field(default_factory=list)


def analyse_video(uri: str, config: CurationConfig, source_sha256: str | None = None) -> VideoAnalysis:
    """Decode `uri` once; never raises for anything the file contains or lacks.

    Status `failed` carries error_stage, error_type and error_message and no clips (frames before the damage are not used);
    `empty` is a readable file with no video frame. `source_sha256` is computed when not given.
    """
    raise NotImplementedError
