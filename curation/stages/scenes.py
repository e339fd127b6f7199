"""Scene cuts: PySceneDetect's detectors fed frame by frame, hard cuts and fades through black in one ordered stream.

Frames count from 0 at the first decoded one; a cut is the first frame of the new scene. Everything is counted in frames, so the
result does not depend on what the header says about rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

from curation.config import SceneConfig

# The detectors want a frame rate only to print times; with lengths given in frames it has no effect.
_ANY_RATE = Fraction(25)


@dataclass(frozen=True)
class Cut:
    """`frame`: first frame of the new scene; `kind`: hard or fade."""

    frame: int
    kind: str


class SceneDetector:
    """Takes frames one by one and answers with the cuts that have become certain, in order, some frames after the event.

    A hard cut closer than `min_scene_frames` to the middle of a fade, or inside its dark part, is part of that fade.
    """

    def __init__(self, config: SceneConfig) -> None:
        self._config = config
        self._hard = _hard_cut_detector(config)
        self._fade = _fade_detector(config)
        self._held: list[int] = []
        self._last = -config.min_scene_frames

    def feed(self, index: int, image: np.ndarray) -> list[Cut]:
        """Add frame `index`, (h w 3) uint8 BGR at detection size; returns the cuts that have become certain."""
        timecode = FrameTimecode(index, fps=_ANY_RATE)
        self._held += [cut.frame_num for cut in self._hard.process_frame(timecode, image)]
        faded = [cut.frame_num for cut in self._fade.process_frame(timecode, image)] if self._fade else []
        if faded:
            return self._emit_fade(faded[0])
        if self._fade and self._fade.last_fade["type"] == "out":
            return []
        return self._emit_hard(index - self._config.min_scene_frames if self._fade else index)

    def finish(self) -> list[Cut]:
        """The cuts still held back at the end of the video."""
        return self._emit_hard(None)

    def _emit_hard(self, up_to: int | None) -> list[Cut]:
        ready = [frame for frame in self._held if up_to is None or frame <= up_to]
        self._held = self._held[len(ready) :]
        return [cut for frame in ready for cut in self._accept(Cut(frame, "hard"))]

    def _emit_fade(self, middle: int) -> list[Cut]:
        """The fade, after the hard cuts that come well before it; those inside it are forgotten."""
        margin = self._config.min_scene_frames
        before = self._emit_hard(middle - margin)
        self._held = []
        return before + self._accept(Cut(middle, "fade"))

    def _accept(self, cut: Cut) -> list[Cut]:
        # The detector itself spaces cuts of one kind; this spaces hard cuts and fades from each other.
        if self._fade and (cut.frame <= 0 or cut.frame - self._last < self._config.min_scene_frames):
            return []
        self._last = cut.frame
        return [cut]


def find_cuts(images: Iterable[np.ndarray], config: SceneConfig) -> list[Cut]:
    """All cuts of a sequence of (h w 3) uint8 BGR frames at detection size."""
    detector = SceneDetector(config)
    cuts = [cut for index, image in enumerate(images) for cut in detector.feed(index, image)]
    return cuts + detector.finish()


def _hard_cut_detector(config: SceneConfig) -> AdaptiveDetector | ContentDetector:
    if config.detector == "content":
        return ContentDetector(threshold=config.content_threshold, min_scene_len=config.min_scene_frames)
    return AdaptiveDetector(
        adaptive_threshold=config.adaptive_threshold,
        min_scene_len=config.min_scene_frames,
        window_width=config.adaptive_window_frames,
        min_content_val=config.min_content_value,
    )


def _fade_detector(config: SceneConfig) -> ThresholdDetector | None:
    if config.fade_threshold is None:
        return None
    return ThresholdDetector(threshold=config.fade_threshold, min_scene_len=config.min_scene_frames)
