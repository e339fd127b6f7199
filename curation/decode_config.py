"""Settings of the decode pass: what leaves it, how it cuts, how it measures motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from curation.config_error import require


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """What leaves the single decode pass of a video."""

    key_frame_px: int = 256
    """Long side of the first, middle and last frame of a clip; smaller frames are kept as they are."""
    grid_frame_px: int = 128
    """Long side of the evenly spaced frames given to the video captioner."""
    grid_frames: int = 4
    """How many of these, at most 8."""
    candidate_fps: float = 4.0
    """Frames set aside per second of an open clip, from which the nearest to each wanted time is taken when it ends."""
    edge_inset_s: float = 0.5
    """First and last frame are taken this far inside the clip (at most 1/8 of it), clear of fades and
    dissolves.
    """
    time_limit_s: float = 1800.0
    """Decoding one video for longer fails it; a decoder that does not answer by then is killed."""
    memory_limit_bytes: int = 8 << 30
    """Address space of the process that decodes; past it the video has failed."""
    max_attempts: int = 3
    """A video whose decoder died or hung is tried this often, then quarantined."""

    def __post_init__(self) -> None:
        for name in ("key_frame_px", "grid_frame_px"):
            require(getattr(self, name) >= 16, name, getattr(self, name), "at least 16")
        require(self.candidate_fps > 0, "candidate_fps", self.candidate_fps, "positive")
        require(self.edge_inset_s >= 0, "edge_inset_s", self.edge_inset_s, "at least 0")
        require(self.time_limit_s >= 0, "time_limit_s", self.time_limit_s, "at least 0")
        require(1 <= self.grid_frames <= 8, "grid_frames", self.grid_frames, "in 1..8")
        require(self.max_attempts >= 1, "max_attempts", self.max_attempts, "at least 1")
        require(self.memory_limit_bytes >= 1 << 30, "memory_limit_bytes", self.memory_limit_bytes, "at least 1 GiB")
        most = 3 * (3 * self.key_frame_px**2 + self.grid_frames * self.grid_frame_px**2)
        require(most <= 2 << 20, "key_frame_px", self.key_frame_px, "smaller: a clip's pictures must fit into 2 MiB")


@dataclass(frozen=True, kw_only=True)
class CutDetectorConfig:
    """One of PySceneDetect's detectors, at one frame rate."""

    fps: float | None = None
    """Frames looked at per second; null looks at every frame. Lower rates see gradual changes as cuts."""
    detector: Literal["adaptive", "content"] = "adaptive"
    threshold: float = 3.0
    """adaptive: ratio of a frame's content change to the mean of its neighbours. content: the change, 0..255."""
    window_frames: int = 2
    """adaptive: neighbours on each side in that mean, counted at `fps`."""
    min_content_value: float = 15.0
    """adaptive: smallest content change (0..255) of a cut."""

    def __post_init__(self) -> None:
        require(self.fps is None or self.fps > 0, "fps", self.fps, "positive, or null for every frame")
        require(self.threshold > 0, "threshold", self.threshold, "positive")
        require(self.window_frames >= 1, "window_frames", self.window_frames, "at least 1")


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Cut detection: a cascade of detectors at several frame rates, and fades and dissolves, in one decode pass."""

    detectors: tuple[CutDetectorConfig, ...] = (CutDetectorConfig(),)
    """Merged; none at all leaves scenes to fades, dissolves and `max_clip_s`."""
    fade_threshold: float | None = None
    """Mean intensity (0..255) under which the picture counts as faded to black; null looks for no such fades."""
    white_threshold: float | None = None
    """Mean intensity (0..255) from which on the picture counts as faded to white; null looks for no such fades."""
    longest_fade_s: float = 4.0
    """A picture that stays black or white for longer is a scene of its own."""
    dissolve_window_s: float | None = None
    """Seconds that a dissolve lasts, about; null looks for no dissolves."""
    min_scene_frames: int = 15
    """Cuts closer than this to the one before are ignored."""
    detection_px: int = 256
    """Long side to which larger frames are reduced for detection."""
    max_clip_s: float = 30.0
    """Longer scenes are divided into clips no longer than this."""

    def __post_init__(self) -> None:
        require(self.min_scene_frames >= 1, "min_scene_frames", self.min_scene_frames, "at least 1")
        require(self.detection_px >= 1, "detection_px", self.detection_px, "at least 1")
        for name in ("max_clip_s", "longest_fade_s"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("fade_threshold", "white_threshold", "dissolve_window_s"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "positive, or null")
        black, white = self.fade_threshold, self.white_threshold
        require(black is None or white is None or black < white, "fade_threshold", black, f"below {white}")


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Motion score: mean magnitude of dense optical flow (SVD App. C: Farneback at 2 fps)."""

    sample_fps: float = 2.0
    sampling: Literal["clock", "data_juicer"] = "clock"
    """clock: the frames shown at multiples of 1/sample_fps. data_juicer: as that project samples, every n-th frame,
    n = round(stated rate / sample_fps), and the second frame of the video besides.
    """
    unit: Literal["heights_per_s", "px"] = "heights_per_s"
    """heights_per_s: frame heights per second. px: between one sample and the next, at the size of the flow."""
    short_side_px: int | None = 128
    """Frames are resized to this short side before the flow, null: not resized; scores of different sizes are not
    comparable.
    """
    blur_px: float = 0.0
    """Standard deviation of the Gaussian blur after resizing: film grain is no motion. 0 blurs nothing."""
    method: Literal["farneback", "dis"] = "farneback"
    """DIS is two to six times faster; scores of the two methods are not comparable."""
    largest_gap_s: float = 2.0
    """Frames further apart than this (variable rate, holes) give no flow."""

    def __post_init__(self) -> None:
        require(self.sample_fps > 0, "sample_fps", self.sample_fps, "positive")
        require(self.largest_gap_s > 0, "largest_gap_s", self.largest_gap_s, "positive")
        short = self.short_side_px
        require(short is None or short >= 16, "short_side_px", short, "at least 16, or null for no resizing")
        require(self.blur_px >= 0, "blur_px", self.blur_px, "0 or positive")
