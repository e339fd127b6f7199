"""Configuration of the curation pipeline: one frozen dataclass per stage, thresholds with their units.

`curation.profiles` fills it in; `curation.config_json` stores it. Importing this file imports no model library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SHIPPED_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"


class CurationError(ValueError):
    """Something the user can put right: one line saying what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """What leaves the single decode pass of a video."""

    key_frame_px: int = 256
    """Long side of the first, middle and last frame of a clip; smaller frames are kept as they are."""
    grid_frame_px: int = 128
    """Long side of the four evenly spaced frames given to the video captioner as a 2x2 grid."""
    edge_inset_s: float = 0.5
    """First and last frame are taken this far inside the clip (at most 1/8 of it), clear of fades and
    dissolves.
    """
    time_limit_s: float = 1800.0
    """A decoder that works longer on one video is killed."""
    memory_limit_bytes: int = 8 << 30
    """Address space of the process that decodes; past it the video has failed."""
    max_attempts: int = 3
    """A video whose decoder died or hung is tried this often, then quarantined."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Cut detection (PySceneDetect's detectors, fed frame by frame at the native rate)."""

    detector: Literal["adaptive", "content"] = "adaptive"
    adaptive_threshold: float = 3.0
    """Ratio of a frame's content change to the mean of its neighbours."""
    adaptive_window_frames: int = 2
    """Neighbours on each side in that mean."""
    min_content_value: float = 15.0
    """Adaptive detector: smallest content change (0..255) of a cut."""
    content_threshold: float = 27.0
    """Content detector: content change (0..255) of a cut."""
    fade_threshold: float | None = None
    """Mean intensity (0..255) under which the picture counts as faded to black; null looks for no fades."""
    dissolve_window_frames: int | None = None
    """Frames that a dissolve spans, about; null looks for no dissolves."""
    min_scene_frames: int = 15
    """Cuts closer than this to the one before are ignored."""
    detection_px: int = 256
    """Long side to which larger frames are reduced for detection."""
    max_clip_s: float = 30.0
    """Longer scenes are divided evenly into clips no longer than this."""

    def __post_init__(self) -> None:
        _require(self.min_scene_frames >= 1, "min_scene_frames", self.min_scene_frames, "at least 1")
        _require(self.max_clip_s > 0, "max_clip_s", self.max_clip_s, "positive")


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Motion score: mean magnitude of dense optical flow (SVD App. C: Farneback at 2 fps), in frame heights
    per second.
    """

    sample_fps: float = 2.0
    short_side_px: int = 128
    """Frames are resized to this short side before the flow; scores of different sizes are not comparable."""
    blur_px: float = 0.0
    """Standard deviation of the Gaussian blur after resizing: film grain is no motion. 0 blurs nothing."""
    method: Literal["farneback"] = "farneback"
    largest_gap_s: float = 2.0
    """Frames further apart than this (variable rate, holes) give no flow."""

    def __post_init__(self) -> None:
        _require(self.sample_fps > 0, "sample_fps", self.sample_fps, "positive")
        _require(self.short_side_px >= 16, "short_side_px", self.short_side_px, "at least 16")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text area: union of detected text boxes over image area, on the first, middle and last frame."""

    detector: Literal["rapidocr", "easyocr"] = "rapidocr"
    weights_dir: Path | None = None
    """EasyOCR: the folder that holds craft_mlt_25k.pth. RapidOCR ships its model in the wheel."""
    canvas_px: int = 320
    """Images are scaled to this long side before detection: the one number that decides its cost."""
    largest_scale: float = 1.75
    """Small images are enlarged at most this much: enlarged further, drawings begin to look like letters."""
    box_threshold: float = 0.5
    """RapidOCR: mean text probability of a box."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """CLIP embeddings of first, middle and last frame (open_clip)."""

    weights: Path = SHIPPED_WEIGHTS / "coca"
    """A checkpoint file of `architecture`, or, when `architecture` is null, a folder in open_clip's local-dir
    layout.
    """
    architecture: str | None = None
    """open_clip architecture name, e.g. ViT-L-14-quickgelu; null reads it from the folder `weights`."""
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class AestheticsConfig:
    """Linear head in LAION's form on the L2-normalised image embedding."""

    head: Path = SHIPPED_WEIGHTS / "aesthetic.safetensors"
    """safetensors with weight (1, d) and bias (1,), or LAION's own .pth."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Image caption: CoCa on the middle frame."""

    weights: Path = SHIPPED_WEIGHTS / "coca"
    """As in EmbedConfig; the model must be a CoCa."""
    architecture: str | None = None
    decoding: Literal["greedy", "top_k", "beam"] = "greedy"
    max_tokens: int = 16
    batch_size: int = 16
    top_k: int = 1
    """For decoding top_k: sample among the k likeliest tokens."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class VideoCaptionConfig:
    """Video caption: of frames spaced evenly over the clip."""

    model: Literal["coca_grid", "transformers"] = "coca_grid"
    """coca_grid: CoCa on a 2x2 grid of four frames. transformers: any image-text-to-text model of that library."""
    weights: Path = SHIPPED_WEIGHTS / "coca"
    """coca_grid: as in CaptionConfig. transformers: a folder as its save_pretrained writes."""
    architecture: str | None = None
    max_tokens: int = 16
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """The third caption, merged from the other two, and which of the three becomes `caption`."""

    llm_url: str | None = None
    """Base URL of an OpenAI-compatible endpoint; null merges by a template, offline and deterministic."""
    llm_model: str | None = None
    chosen: Literal["coca", "video", "llm"] = "video"


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """Duplicates among clips: exact ones by their decoded frames, semantic ones by their embeddings."""

    exact: bool = True
    eps: float | None = None
    """Clips whose embeddings have a cosine of at least 1 - eps are duplicates; null looks at exact copies only."""


@dataclass(frozen=True, kw_only=True)
class AxisRule:
    """Bounds on one score column; a clip fails where any given bound is crossed. Fractions are taken over the
    clips that have the score.
    """

    axis: str
    """Column of the clips table."""
    minimum: float | None = None
    maximum: float | None = None
    drop_lowest_frac: float = 0.0
    drop_highest_frac: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drop_lowest_frac", "drop_highest_frac"):
            _require(0.0 <= getattr(self, name) < 1.0, f"{self.axis}.{name}", getattr(self, name), "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which clips are kept: every rule must hold; a clip with no score on an axis fails it by a reason of its
    own.
    """

    rules: tuple[AxisRule, ...] = ()
    drop_duplicates: bool = True


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Long sequences for training: contiguous time of one video, written at constant rate and training size."""

    train_fps: float = 8.0
    height: int = 32
    width: int = 32
    min_frames: int = 16
    """Shorter runs are not written."""
    break_reasons: tuple[str, ...] = ("undecodable", "duplicate")
    """A clip with one of these ends a run; every other axis is judged on the run's mean."""
    mean_rules: tuple[AxisRule, ...] = ()
    """Bounds on the duration-weighted mean of a run's scores; percentile forms are not used here."""
    gop_frames: int = 8
    crf: int = 14

    def __post_init__(self) -> None:
        _require(self.train_fps > 0, "train_fps", self.train_fps, "positive")
        for name in ("height", "width"):
            size = getattr(self, name)
            _require(size >= 2 and size % 2 == 0, name, size, "even and at least 2 (H.264 with yuv420p)")
        for name in ("min_frames", "gop_frames"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 <= self.crf <= 51, "crf", self.crf, "in 0..51")


@dataclass(frozen=True, kw_only=True)
class ClipFileConfig:
    """Files of single kept clips (`--materialize`), beside the runs."""

    materialize: Literal["none", "copy", "encode", "auto"] = "none"
    """none: the index only. copy: packets as they are, from the first key frame inside the clip on. encode: H.264 at
    training size. auto: copies where no more than `largest_loss_frac` of the clip is lost, encodes otherwise."""
    largest_loss_frac: float = 0.05


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """All stages, in the order in which a clip meets them."""

    profile: str = "demo"
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    video_caption: VideoCaptionConfig = field(default_factory=VideoCaptionConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    aesthetics: AestheticsConfig = field(default_factory=AestheticsConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    runs: RunConfig = field(default_factory=RunConfig)
    clip_files: ClipFileConfig = field(default_factory=ClipFileConfig)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise CurationError(f"{name} = {value!r} must be {rule}")
