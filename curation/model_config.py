"""Settings of the stages that run models: where their weights are, and what they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from curation.config_error import require

SHIPPED_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"


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
        require(self.canvas_px >= 32, "canvas_px", self.canvas_px, "at least 32")
        require(self.largest_scale > 0, "largest_scale", self.largest_scale, "positive")
        require(0 <= self.box_threshold <= 1, "box_threshold", self.box_threshold, "in 0..1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


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
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


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
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        require(self.max_tokens > self.min_tokens, "max_tokens", self.max_tokens, f"above min_tokens {self.min_tokens}")
        require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "positive")
        require(self.seed >= 0, "seed", self.seed, "at least 0")


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
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        require(self.max_tokens > self.min_tokens, "max_tokens", self.max_tokens, f"above min_tokens {self.min_tokens}")


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """Which of the three captions becomes `caption`."""

    chosen: Literal["coca", "video", "llm"] = "video"


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """The third caption, merged from the other two."""

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

    def __post_init__(self) -> None:
        if self.llm_url is None:
            require(self.llm_model is None, "llm_model", self.llm_model, "null without llm_url: give --llm-url as well")
        else:
            parts = urlsplit(self.llm_url)
            rule = "http://HOST… or https://HOST… without user or password (the key belongs in the environment)"
            plain = parts.scheme in ("http", "https") and parts.hostname is not None and "@" not in parts.netloc
            require(plain, "llm_url", self.llm_url, rule)
            require(bool(self.llm_model), "llm_model", self.llm_model, "the name of a model at llm_url")
        require(self.llm_timeout_s > 0, "llm_timeout_s", self.llm_timeout_s, "positive")
        require(self.llm_max_retries >= 0, "llm_max_retries", self.llm_max_retries, "at least 0")
        require(self.llm_concurrency >= 1, "llm_concurrency", self.llm_concurrency, "at least 1")
