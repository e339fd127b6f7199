"""Configuration of the curation pipeline: one frozen dataclass per stage, thresholds with their units, two
profiles.

`demo()` (the default) runs anywhere on the small models that ship with the repository; `svd()` follows the
recipe of Stable Video Diffusion (arXiv 2311.15127, Sec. 3 and App. C) with models the user provides.
Importing this file imports no model library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

SHIPPED_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"
T = TypeVar("T")


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
    """A video whose decoding takes longer counts as failed."""
    isolated: bool = True
    """Decode in a child process that can be killed: survives crashes and hangs of the decoder, costs a
    process per video.
    """
    memory_limit_bytes: int = 8 << 30
    """Address space of the child process when `isolated`."""


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
    """Image caption (middle frame), video caption (2x2 grid of four frames) and their merger."""

    weights: Path = SHIPPED_WEIGHTS / "coca"
    """As in EmbedConfig; the model must be a CoCa."""
    architecture: str | None = None
    max_tokens: int = 16
    batch_size: int = 16
    top_k: int = 1
    """1 decodes greedily, more samples among the k likeliest tokens."""
    seed: int = 0
    chosen: Literal["coca", "video", "llm"] = "video"
    """Which of caption_coca, caption_video, caption_llm becomes `caption`."""


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
class CurationConfig:
    """All stages, in the order in which a clip meets them."""

    profile: str = "demo"
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    aesthetics: AestheticsConfig = field(default_factory=AestheticsConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    runs: RunConfig = field(default_factory=RunConfig)


def demo() -> CurationConfig:
    """Small shipped models, thresholds made for the toon footage, fades through black detected."""
    rules = (
        AxisRule(axis="duration_s", minimum=1.0),
        AxisRule(axis="motion_score", minimum=0.0075),
        AxisRule(axis="ocr_area_ratio", maximum=0.07),
        AxisRule(axis="aesthetic_score", minimum=5.0),
        AxisRule(axis="clip_similarity", drop_lowest_frac=0.1),
    )
    return CurationConfig(
        profile="demo",
        scenes=SceneConfig(adaptive_threshold=2.5, fade_threshold=12.0, dissolve_window_frames=16),
        motion=MotionConfig(short_side_px=48, blur_px=1.5),
        select=SelectConfig(rules=rules),
    )


def svd() -> CurationConfig:
    """Stable Video Diffusion's recipe (Sec. 3, App. C, E.2); model files are expected under models/ of the
    working directory.
    """
    rules = (
        AxisRule(axis="duration_s", minimum=2.0),
        AxisRule(axis="motion_score", drop_lowest_frac=0.25),
        AxisRule(axis="aesthetic_score", drop_lowest_frac=0.25),
        AxisRule(axis="clip_similarity", drop_lowest_frac=0.5),
        AxisRule(axis="ocr_area_ratio", maximum=0.07, drop_highest_frac=0.25),
    )
    models = Path("models")
    return CurationConfig(
        profile="svd",
        decode=DecodeConfig(key_frame_px=448),
        scenes=SceneConfig(fade_threshold=12.0),
        text=TextConfig(detector="easyocr", weights_dir=models / "easyocr", canvas_px=640),
        embed=EmbedConfig(weights=models / "clip-vit-l-14-openai.safetensors", architecture="ViT-L-14-quickgelu"),
        aesthetics=AestheticsConfig(head=models / "sa_0_4_vit_l_14_linear.pth"),
        caption=CaptionConfig(
            weights=models / "coca-vit-l-14.safetensors", architecture="coca_ViT-L-14", max_tokens=30
        ),
        select=SelectConfig(rules=rules),
        runs=RunConfig(height=256, width=256, crf=18),
    )


PROFILES = {"demo": demo, "svd": svd}


def profile(name: str) -> CurationConfig:
    """The named profile.

    Raises:
        CurationError: unknown name.
    """
    if name not in PROFILES:
        raise CurationError(f"unknown profile {name!r}: use --profile with one of {', '.join(sorted(PROFILES))}")
    return PROFILES[name]()


def to_dict(config: Any) -> dict[str, Any]:
    """Any config dataclass as JSON-ready values; paths become strings, tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def to_json(config: Any) -> str:
    """Any config dataclass as indented JSON."""
    return json.dumps(to_dict(config), indent=2)


def from_json(text: str, config_type: type[T]) -> T:
    """Read what `to_json` wrote.

    Raises:
        CurationError: no JSON, an unknown or missing field, a value of another type or against a rule of the config.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise CurationError(
            f"the configuration is not JSON ({error}): restore it or start with a new output"
        ) from error
    return typing.cast(T, _build(config_type, values, config_type.__name__))


def fingerprint(config: Any) -> str:
    """16 hex digits that change with any value of `config`; of a path only the last two parts count, so a
    moved checkout keeps it.
    """
    plain = json.dumps(dataclasses.asdict(config), default=_path_tail, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _path_tail(value: object) -> str:
    assert isinstance(value, Path), f"only paths need help to become JSON, not {value!r}"
    return "/".join(value.parts[-2:])


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise CurationError(f"{name} = {value!r} must be {rule}")


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as `kind` (dataclass, tuple of one type, optional, Path or plain)."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise CurationError(f"{where} = {value!r} must be a list")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _build(inner, value, where)
    if origin is Literal and value not in arguments:
        raise CurationError(f"{where} = {value!r} must be one of {', '.join(map(str, arguments))}")
    return value if origin is Literal else _plain(kind, value, where)


def _plain(kind: type, value: Any, where: str) -> Any:
    """`value` as bool, int, float, str or Path; a whole number may stand for a float."""
    wanted: Any = {Path: str, float: (int, float)}.get(kind, kind)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise CurationError(f"{where} = {value!r} must be of type {kind.__name__}")
    return Path(value) if kind is Path else value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise CurationError(f"{where} = {value!r} must be an object with fields")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise CurationError(f"{where} has no field {unknown[0]!r}: use {', '.join(hints)}")
    without = (dataclasses.MISSING, dataclasses.MISSING)
    needed = [item.name for item in dataclasses.fields(kind) if (item.default, item.default_factory) == without]
    for name in needed:
        if name not in value:
            raise CurationError(f"{where} lacks the field {name!r}: add it")
    return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
