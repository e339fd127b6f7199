"""Configuration of the curation pipeline: one frozen dataclass per stage, thresholds with their units.

Here: everything that is decided over all rows, and the whole. `curation.profiles` fills it in, `curation.config_json`
stores it. Importing this file imports no model library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from curation.config_error import require
from curation.decode_config import DecodeConfig, MotionConfig, SceneConfig
from curation.model_config import (
    AestheticsConfig,
    CaptionConfig,
    ChoiceConfig,
    EmbedConfig,
    MergeConfig,
    TextConfig,
    VideoCaptionConfig,
)


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """Duplicates among clips: exact ones by their decoded frames, semantic ones by their embeddings."""

    exact: bool = True
    eps: float | None = None
    """Clips whose embeddings have a cosine of at least 1 - eps are duplicates; null looks at exact copies only."""
    prefer: tuple[Literal["resolution", "video_frames", "duration_s", "aesthetic_score"], ...] = (
        "resolution",
        "video_frames",
        "duration_s",
        "aesthetic_score",
    )
    """Which copy stays: the one with more of the first, at a tie of the second …; at last the lower video_id and
    clip_id. video_frames counts the frames of its whole video: so the longer video keeps all its clips, and its runs
    stay whole. Exact copies are told apart by resolution and video_frames only."""
    num_clusters: int | None = None
    """Clusters of the k-means that spares comparisons; null takes the square root of the number of clips. The
    duplicates found do not depend on it."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.eps is None or 0 < self.eps < 1, "dedup.eps", self.eps, "between 0 and 1, or null")
        clusters = self.num_clusters
        require(clusters is None or clusters >= 1, "dedup.num_clusters", clusters, "at least 1, or null")
        require(len(set(self.prefer)) == len(self.prefer), "dedup.prefer", self.prefer, "without repetition")
        require(self.seed >= 0, "dedup.seed", self.seed, "at least 0")


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
            require(0.0 <= getattr(self, name) < 1.0, f"{self.axis}.{name}", getattr(self, name), "in [0, 1)")
        for name in ("minimum", "maximum"):
            bound = getattr(self, name)
            require(bound is None or math.isfinite(bound), f"{self.axis}.{name}", bound, "a finite number, or null")
        if self.minimum is not None and self.maximum is not None:
            rule = f"at most {self.axis}.maximum = {self.maximum!r}"
            require(self.minimum <= self.maximum, f"{self.axis}.minimum", self.minimum, rule)


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
    """Bounds on the duration-weighted mean of a run's scores; percentile forms are not for means."""
    gop_frames: int = 8
    crf: int = 14

    def __post_init__(self) -> None:
        require(self.train_fps > 0, "train_fps", self.train_fps, "positive")
        for name in ("height", "width"):
            size = getattr(self, name)
            require(size >= 2 and size % 2 == 0, name, size, "even and at least 2 (H.264 with yuv420p)")
        for name in ("min_frames", "gop_frames"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 <= self.crf <= 51, "crf", self.crf, "in 0..51")
        for rule in self.mean_rules:
            share = max(rule.drop_lowest_frac, rule.drop_highest_frac)
            require(share == 0, f"mean_rules: drop_…_frac of {rule.axis}", share, "0: a mean has minimum and maximum")


@dataclass(frozen=True, kw_only=True)
class ClipFileConfig:
    """Files of single kept clips (`--materialize`), beside the runs. Sound is dropped."""

    materialize: Literal["none", "copy", "encode", "auto"] = "none"
    """none: the index only. copy: packets as they are, from the first key frame inside the clip on. encode: H.264 at
    training size. auto: copies where no more than `largest_loss_frac` of the clip is lost, encodes otherwise."""
    largest_loss_frac: float = 0.05
    encode_fps: float | None = None
    """Constant rate of encoded files; null takes each clip's own mean rate."""

    def __post_init__(self) -> None:
        require(0.0 <= self.largest_loss_frac <= 1.0, "largest_loss_frac", self.largest_loss_frac, "in [0, 1]")
        require(self.encode_fps is None or 0 < self.encode_fps <= 1000, "encode_fps", self.encode_fps, "in (0, 1000]")


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
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    aesthetics: AestheticsConfig = field(default_factory=AestheticsConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    runs: RunConfig = field(default_factory=RunConfig)
    clip_files: ClipFileConfig = field(default_factory=ClipFileConfig)
