"""A finished dataset made by hand: two videos that decode, one that does not, six clips of which four are kept."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from curation.config import AxisRule, CurationConfig, SelectConfig
from curation.config_json import to_dict
from curation.manifest import Manifest, write_json
from curation.stages.select import select
from curation.video import write_video

RULES = (
    AxisRule(axis="motion_score", minimum=0.05),
    AxisRule(axis="aesthetic_score", drop_lowest_frac=0.2),
    AxisRule(axis="ocr_area_ratio", maximum=0.07),
)


def build(root: Path) -> Path:
    """The dataset folder below `root`; its videos lie beside it."""
    config = dataclasses.replace(CurationConfig(), select=SelectConfig(rules=RULES))
    job = {"input": str(root), "config": to_dict(config), "num_shards": 1, "embedding_dim": 4}
    manifest = Manifest(root / "dataset", config, 1, 4)
    write_json(manifest.root / "manifest" / "job.json", job)
    uris = [_video(root / f"film{n}.mp4", hue=n) for n in range(2)]
    clips = _selected([_clip(uri, video, n) for video, uri in enumerate(uris) for n in range(3)], config)
    videos = [_ending(uri, n, "ok") for n, uri in enumerate(uris)] + [_ending("/films/<b>broken</b>.mkv", 2, "failed")]
    error = {"source_uri": "/films/<b>broken</b>.mkv", "stage": "decode", "error_message": "<i>no</i> header"}
    for table, rows in {"videos": videos, "clips": clips, "runs": _runs(clips), "errors": [error]}.items():
        schema = manifest.table_schema(table)
        manifest.write_part(table, 0, [_blank(schema) | row for row in rows])
    return manifest.root


def _blank(schema: pa.Schema) -> dict[str, Any]:
    """Zero, nothing, or the empty list in every column that may not be null."""
    required = [field for field in schema if not field.nullable]
    return {
        field.name: "" if pa.types.is_string(field.type) else [] if pa.types.is_list(field.type) else 0
        for field in required
    }


def _video(path: Path, hue: int) -> str:
    """Three seconds of a square that moves, 16 frames per second."""
    images = np.full((48, 48, 64, 3), 200, dtype=np.uint8)
    for n, image in enumerate(images):
        image[16:32, n : n + 16] = (220, 40, 40) if hue == 0 else (40, 40, 220)
    write_video(path, images, fps=16)
    return str(path)


def _clip(uri: str, video: int, n: int) -> dict[str, Any]:
    return {
        "clip_id": f"clip{video}{n}",
        "video_id": f"video{video}",
        "source_uri": uri,
        "start_s": float(n),
        "end_s": n + 1.0,
        "duration_s": 1.0,
        "motion_score": (0.01, 0.2, 0.5)[n],
        "aesthetic_score": 4.0 + 3 * video + n,
        "ocr_area_ratio": 0.0,
        "clip_similarity": 0.5 if video else None,
        "caption": "a <square> moves" if n else None,
    }


def _selected(clips: list[dict[str, Any]], config: CurationConfig) -> list[dict[str, Any]]:
    keep, reasons = select(pd.DataFrame(clips), config.select)
    return [clip | {"keep": bool(k), "filter_reasons": r} for clip, k, r in zip(clips, keep, reasons, strict=True)]


def _ending(uri: str, n: int, status: str) -> dict[str, Any]:
    return {"video_id": f"video{n}", "source_uri": uri, "status": status, "num_clips": 3 if status == "ok" else 0}


def _runs(clips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = [clip["clip_id"] for clip in clips if clip["video_id"] == "video0"]
    return [{"run_id": "run0", "video_id": "video0", "num_frames": 240, "train_fps": 8.0, "clip_ids": ids}]
