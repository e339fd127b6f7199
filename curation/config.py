"""Configuration of the curation pipeline: one frozen dataclass per stage, thresholds with their units.

`curation.profiles` fills it in; `curation.config_json` stores it. Importing this file imports no model library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

SHIPPED_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"


class CurationError(ValueError):
    """Something the user can put right: one line saying what is wrong and what to do."""


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise CurationError(f"{name} = {value!r} must be {rule}")


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
        _require(self.candidate_fps > 0, "candidate_fps", self.candidate_fps, "positive")
        _require(1 <= self.grid_frames <= 8, "grid_frames", self.grid_frames, "in 1..8")
        _require(self.max_attempts >= 1, "max_attempts", self.max_attempts, "at least 1")
        _require(self.memory_limit_bytes >= 1 << 30, "memory_limit_bytes", self.memory_limit_bytes, "at least 1 GiB")
        most = 3 * (3 * self.key_frame_px**2 + self.grid_frames * self.grid_frame_px**2)
        _require(most <= 2 << 20, "key_frame_px", self.key_frame_px, "smaller: a clip's pictures must fit into 2 MiB")


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
        _require(self.fps is None or self.fps > 0, "fps", self.fps, "positive, or null for every frame")
        _require(self.threshold > 0, "threshold", self.threshold, "positive")
        _require(self.window_frames >= 1, "window_frames", self.window_frames, "at least 1")


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
        _require(self.min_scene_frames >= 1, "min_scene_frames", self.min_scene_frames, "at least 1")
        _require(self.detection_px >= 1, "detection_px", self.detection_px, "at least 1")
        for name in ("max_clip_s", "longest_fade_s"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("fade_threshold", "white_threshold", "dissolve_window_s"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "positive, or null")
        black, white = self.fade_threshold, self.white_threshold
        _require(black is None or white is None or black < white, "fade_threshold", black, f"below {white}")


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
        _require(self.sample_fps > 0, "sample_fps", self.sample_fps, "positive")
        short = self.short_side_px
        _require(short is None or short >= 16, "short_side_px", short, "at least 16, or null for no resizing")
        _require(self.blur_px >= 0, "blur_px", self.blur_px, "0 or positive")


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
    batch_size: int = 8
    """EasyOCR: images of one size that pass through the network together."""

    def __post_init__(self) -> None:
        _require(self.canvas_px >= 32, "canvas_px", self.canvas_px, "at least 32")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """CLIP embeddings of first, middle and last frame (open_clip)."""

    weights: Path = SHIPPED_WEIGHTS / "coca"
    """A checkpoint file of `architecture`, or a tag of it (openai, laion2b_s32b_b82k …) that open_clip has downloaded
    before; when `architecture` is null, a folder in open_clip's local-dir layout.
    """
    architecture: str | None = None
    """open_clip architecture name, e.g. ViT-L-14-quickgelu; null reads it from the folder `weights`."""
    batch_size: int = 16
    gpu_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the weights on a GPU; on the CPU it is always float32."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


@dataclass(frozen=True, kw_only=True)
class AestheticsConfig:
    """Linear head in LAION's form on the L2-normalised image embedding."""

    head: Path = SHIPPED_WEIGHTS / "aesthetic.safetensors"
    """safetensors with weight (1, d) and bias (1,), or LAION's own .pth."""
    scale: Literal["own", "laion-v1", "laion-improved"] = "own"
    """What the scores mean; they compare within one scale only. laion-v1: LAION-Aesthetics v1 (one layer), about 0
    to 10. laion-improved: the improved predictor (sac+logos+ava1), about 1 to 7. own: any other head; the shipped one
    parts degraded from clean toon frames at 5."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Image caption: CoCa on the middle frame, decoded by the rules of open_clip's `generate`."""

    weights: Path = SHIPPED_WEIGHTS / "coca"
    """As in EmbedConfig; the model must be a CoCa."""
    architecture: str | None = None
    decoding: Literal["greedy", "top_k", "beam"] = "greedy"
    min_tokens: int = 4
    """The end token comes after at least so many others (open_clip: min_seq_len - 1)."""
    max_tokens: int = 16
    """Tokens after the start token, the end token among them (open_clip: seq_len - 1)."""
    batch_size: int = 16
    top_k: int = 5
    """For decoding top_k: sample among the k likeliest tokens; 1 is greedy."""
    num_beams: int = 2
    """For decoding beam. open_clip's default of six in three groups is a search by two beams, three times over."""
    repetition_penalty: float = 1.0
    """Above 1: words said before become less likely."""
    seed: int = 0
    """Of top_k: the draws of a clip depend on it and on the clip's id, on nothing else."""
    gpu_dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("batch_size", "top_k", "num_beams"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        _require(
            self.max_tokens > self.min_tokens, "max_tokens", self.max_tokens, f"above min_tokens {self.min_tokens}"
        )
        _require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "positive")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")


@dataclass(frozen=True, kw_only=True)
class VideoCaptionConfig:
    """Video caption: of frames spaced evenly over the clip, greedy."""

    model: Literal["coca_grid", "transformers"] = "coca_grid"
    """coca_grid: CoCa on a 2x2 grid of four frames. transformers: any image-text-to-text model of that library, BLIP-2
    (its frames joined as in VideoBLIP) or one with a chat template and several images (Qwen2-VL, SmolVLM …)."""
    weights: Path = SHIPPED_WEIGHTS / "coca"
    """coca_grid: as in CaptionConfig. transformers: a folder as its save_pretrained writes, processor included,
    or the name (OWNER/NAME) of a model that the cache of Hugging Face has."""
    architecture: str | None = None
    prompt: str | None = None
    """transformers: what the model is asked, in words; null asks a chat model for a caption, BLIP-2 nothing."""
    min_tokens: int = 4
    max_tokens: int = 16
    batch_size: int = 16
    gpu_dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        _require(
            self.max_tokens > self.min_tokens, "max_tokens", self.max_tokens, f"above min_tokens {self.min_tokens}"
        )


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """The third caption, merged from the other two, and which of the three becomes `caption`."""

    llm_url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1; null merges by a template, offline and
    deterministic."""
    llm_model: str | None = None
    """Name of the model at that endpoint."""
    llm_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key, set where the workers run; the key itself is never stored. An endpoint
    without keys needs none."""
    llm_temperature: float | None = 0.0
    """Null leaves it to the endpoint."""
    llm_timeout_s: float = 60.0
    llm_max_retries: int = 5
    """After connection errors, timeouts and status 408, 409, 429 and 5xx, each time after a longer wait."""
    llm_concurrency: int = 8
    """Requests under way at once, per worker."""
    llm_failure: Literal["error", "template"] = "error"
    """When the endpoint gives no caption: an error row and a null caption_llm, or the template's caption."""
    chosen: Literal["coca", "video", "llm"] = "video"

    def __post_init__(self) -> None:
        if self.llm_url is not None:
            parts = urlsplit(self.llm_url)
            rule = "http://HOST… or https://HOST… without user or password (the key belongs in the environment)"
            plain = parts.scheme in ("http", "https") and parts.hostname is not None and "@" not in parts.netloc
            _require(plain, "llm_url", self.llm_url, rule)
            _require(bool(self.llm_model), "llm_model", self.llm_model, "the name of a model at llm_url")
        _require(self.llm_timeout_s > 0, "llm_timeout_s", self.llm_timeout_s, "positive")
        _require(self.llm_max_retries >= 0, "llm_max_retries", self.llm_max_retries, "at least 0")
        _require(self.llm_concurrency >= 1, "llm_concurrency", self.llm_concurrency, "at least 1")


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
        _require(self.eps is None or 0 < self.eps < 1, "dedup.eps", self.eps, "between 0 and 1, or null")
        clusters = self.num_clusters
        _require(clusters is None or clusters >= 1, "dedup.num_clusters", clusters, "at least 1, or null")
        _require(len(set(self.prefer)) == len(self.prefer), "dedup.prefer", self.prefer, "without repetition")
        _require(self.seed >= 0, "dedup.seed", self.seed, "at least 0")


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
        for name in ("minimum", "maximum"):
            bound = getattr(self, name)
            _require(bound is None or math.isfinite(bound), f"{self.axis}.{name}", bound, "a finite number, or null")
        if self.minimum is not None and self.maximum is not None:
            rule = f"at most {self.axis}.maximum = {self.maximum!r}"
            _require(self.minimum <= self.maximum, f"{self.axis}.minimum", self.minimum, rule)


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
    """Files of single kept clips (`--materialize`), beside the runs. Sound is dropped."""

    materialize: Literal["none", "copy", "encode", "auto"] = "none"
    """none: the index only. copy: packets as they are, from the first key frame inside the clip on. encode: H.264 at
    training size. auto: copies where no more than `largest_loss_frac` of the clip is lost, encodes otherwise."""
    largest_loss_frac: float = 0.05
    encode_fps: float | None = None
    """Constant rate of encoded files; null takes each clip's own mean rate."""

    def __post_init__(self) -> None:
        _require(0.0 <= self.largest_loss_frac <= 1.0, "largest_loss_frac", self.largest_loss_frac, "in [0, 1]")
        _require(self.encode_fps is None or 0 < self.encode_fps <= 1000, "encode_fps", self.encode_fps, "in (0, 1000]")


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
