"""The two profiles: `demo()` (the default) runs anywhere, on the small models that ship with the repository; `svd()`
follows the recipe of Stable Video Diffusion (arXiv 2311.15127, Sec. 3 and App. C) with models the user provides.
"""

from pathlib import Path

from curation.config import AxisRule, CurationConfig, DedupConfig, RunConfig, SelectConfig
from curation.config_error import CurationError
from curation.decode_config import CutDetectorConfig, DecodeConfig, MotionConfig, SceneConfig
from curation.model_config import AestheticsConfig, CaptionConfig, EmbedConfig, TextConfig, VideoCaptionConfig

LOWER_RATES = (
    CutDetectorConfig(fps=8.0, threshold=2.5),
    CutDetectorConfig(fps=2.0, threshold=2.0),
)
"""Beside the native rate (SVD Sec. 3.1 names neither rates nor thresholds): chosen on training episodes of the toon
world, where they find dissolves that the rule for them misses, and on wipes made of real films."""


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
        scenes=SceneConfig(
            detectors=(CutDetectorConfig(threshold=2.5), *LOWER_RATES),
            fade_threshold=12.0,
            white_threshold=243.0,
            dissolve_window_s=1.0,
        ),
        motion=MotionConfig(short_side_px=48, blur_px=1.5),
        select=SelectConfig(rules=rules),
    )


def svd() -> CurationConfig:
    """Stable Video Diffusion's recipe (Sec. 3, App. C, E.2); model files are expected under models/ of the
    working directory, and `curation.model_files` knows where one gets each. The merger is the template until `merge`
    names an endpoint.
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
        decode=DecodeConfig(
            key_frame_px=400, grid_frame_px=224, candidate_fps=2.0, edge_inset_s=0.75
        ),  # 2 MB per clip, square frames included
        scenes=SceneConfig(
            detectors=(CutDetectorConfig(), *LOWER_RATES),
            fade_threshold=12.0,
            white_threshold=243.0,
            dissolve_window_s=1.0,
        ),
        motion=MotionConfig(short_side_px=64),
        text=TextConfig(detector="easyocr", weights_dir=models / "easyocr", canvas_px=640),
        embed=EmbedConfig(weights=models / "clip-vit-l-14-openai"),
        aesthetics=AestheticsConfig(head=models / "sa_0_4_vit_l_14_linear.pth", scale="laion-v1"),
        caption=CaptionConfig(
            weights=models / "coca-vit-l-14-mscoco", decoding="beam", max_tokens=29, gpu_dtype="bfloat16"
        ),
        video_caption=VideoCaptionConfig(
            model="transformers", weights=models / "blip2-opt-2.7b", max_tokens=40, gpu_dtype="bfloat16"
        ),
        dedup=DedupConfig(eps=0.01),
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
