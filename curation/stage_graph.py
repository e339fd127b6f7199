"""Which stage reads what: a changed setting makes stale the stages that see it, and no others.

    cuts ─┬─ motion
          ├─ text
          ├─ caption ────────┐
          ├─ video_caption ──┴─ merge ── choice ─┐
          └─ embed ─┬────────────────────────────┴─ similarity
                    └─ aesthetics

Deduplication, selection, runs and clip files come after all of these and are cheap: they are made anew every time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from curation.config import CurationConfig
from curation.config_json import fingerprint, fingerprint_of_text

NO_EFFECT_ON_ROWS = (
    *("time_limit_s", "memory_limit_bytes", "max_attempts", "batch_size"),
    *("llm_concurrency", "llm_timeout_s", "llm_max_retries", "llm_key_variable"),
)
"""Settings that decide how the work is done, not what comes out."""


@dataclass(frozen=True)
class Stage:
    """`sections` of the config decide its result, together with the results of the stages `after` which it comes."""

    sections: tuple[str, ...]
    after: tuple[str, ...]
    columns: tuple[str, ...]


_CAPTIONS = ("coca", "video", "llm")

GRAPH: dict[str, Stage] = {
    "cuts": Stage(("decode", "scenes"), (), ()),
    "motion": Stage(("motion",), ("cuts",), ("motion_score",)),
    "text": Stage(("text",), ("cuts",), ("ocr_area_ratio", "ocr_area_ratio_frames")),
    "caption": Stage(("caption",), ("cuts",), ("caption_coca",)),
    "video_caption": Stage(("video_caption",), ("cuts",), ("caption_video",)),
    "merge": Stage(("merge",), ("caption", "video_caption"), ("caption_llm",)),
    "choice": Stage(("choice",), ("merge",), ("caption",)),
    "embed": Stage(("embed",), ("cuts",), ("clip_embedding", "frame_embeddings")),
    "aesthetics": Stage(("aesthetics",), ("embed",), ("aesthetic_score", "aesthetic_score_frames")),
    "similarity": Stage(
        (),
        ("embed", "choice"),
        (
            "clip_similarity",
            *(f"clip_similarity_{name}" for name in _CAPTIONS),
            *(f"clip_similarity_{name}_frames" for name in _CAPTIONS),
        ),
    ),
}
DECODING = frozenset({"cuts", "motion"})
"""Stages of the decode pass."""
LOOKING = frozenset({"text", "caption", "video_caption", "embed"})
"""Stages that look at the stored pictures of a clip."""


def fingerprints(config: CurationConfig) -> dict[str, str]:
    """Stage → 16 hex digits that change with every setting it depends on, directly or through another stage."""
    found: dict[str, str] = {}
    for name, stage in GRAPH.items():
        own = [fingerprint(getattr(config, section), NO_EFFECT_ON_ROWS) for section in stage.sections]
        found[name] = fingerprint_of_text(*own, *(found[earlier] for earlier in stage.after))
    return found


def stale_stages(have: Mapping[str, str], want: Mapping[str, str]) -> tuple[str, ...]:
    """Stages whose result was made under another fingerprint, or not yet."""
    return tuple(name for name in GRAPH if have.get(name) != want[name])


def with_later_stages(stages: Collection[str]) -> tuple[str, ...]:
    """`stages`, and all that read their results, in the order of the graph; other names are left out."""
    again = set(stages)
    for name, stage in GRAPH.items():  # earlier stages come first
        if again & set(stage.after):
            again.add(name)
    return tuple(name for name in GRAPH if name in again)


def measurement_fingerprint(config: CurationConfig) -> str:
    """One fingerprint of all stages: what is stored under it needs no measuring."""
    return fingerprint_of_text(*fingerprints(config).values())[:8]
