"""A finished dataset made by hand: two videos that decode, a copy of one, one that does not decode, six clips of which
four are kept and one is a copy of another, two runs.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from curation import schema
from curation.config import AxisRule, CurationConfig, SelectConfig
from curation.config_json import to_dict, to_json
from curation.stages.select import select
from curation.video import write_video

RULES = (
    AxisRule(axis="motion_score", minimum=0.05),
    AxisRule(axis="aesthetic_score", drop_lowest_frac=0.2),
    AxisRule(axis="ocr_area_ratio", maximum=0.07),
)
DIM = 4
FPS = 16
TRAIN_FPS = 8.0


def build(root: Path) -> Path:
    """The dataset folder below `root`; its videos lie beside it."""
    config = dataclasses.replace(CurationConfig(), select=SelectConfig(rules=RULES))
    folder = root / "dataset"
    (folder / "manifest").mkdir(parents=True)
    job = {"input": str(root), "config": to_dict(config), "num_shards": 1, "embedding_dim": DIM}
    (folder / "manifest" / "job.json").write_text(json.dumps(job))
    (folder / "config.json").write_text(to_json(config))
    uris = [_video(root / f"film{n}.mp4", hue=n) for n in range(2)]
    clips = _selected([_clip(uri, video, n) for video, uri in enumerate(uris) for n in range(3)], config)
    videos = [_ending(uri, n, "ok") for n, uri in enumerate(uris)]
    videos += [_ending(str(root / "copy.mp4"), 0, "duplicate"), _ending("/films/<b>broken</b>.mkv", 2, "failed")]
    error = {"source_uri": "/films/<b>broken</b>.mkv", "stage": "decode", "error_message": "<i>no</i> header"}
    _write(folder / "videos", schema.VIDEOS, videos)
    _write(folder / "clips", schema.clips_schema(DIM), clips)
    _write(folder / "runs", schema.RUNS, [_run(clips, video) for video in range(2)])
    _write(folder / "errors", schema.ERRORS, [error])
    return folder


def _write(folder: Path, table_schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    filled = [_blank(table_schema) | row for row in rows]
    columns = [pa.array([row.get(column.name) for row in filled], column.type) for column in table_schema]
    pq.write_table(pa.Table.from_arrays(columns, schema=table_schema), folder / "part-00000.parquet")


def _blank(table_schema: pa.Schema) -> dict[str, Any]:
    """Zero, nothing, or the empty list in every column that may not be null."""
    required = [field for field in table_schema if not field.nullable]
    return {
        field.name: "" if pa.types.is_string(field.type) else [] if pa.types.is_list(field.type) else 0
        for field in required
    }


def _video(path: Path, hue: int) -> str:
    """Three seconds of a square that moves, 16 frames per second."""
    images = np.full((48, 48, 64, 3), 200, dtype=np.uint8)
    for n, image in enumerate(images):
        image[16:32, n : n + 16] = (220, 40, 40) if hue == 0 else (40, 40, 220)
    write_video(path, images, fps=FPS)
    return str(path)


def _clip(uri: str, video: int, n: int) -> dict[str, Any]:
    """Second n of a film; the first one of the second film is called a copy of one of the first film."""
    angle = 0.1 * (3 * video + n)
    captions = {"caption_coca": "a <square>", "caption_video": "a <square> moves", "caption_llm": "a <square>, moving"}
    fits = {"clip_similarity_coca": 0.3, "clip_similarity_video": 0.5, "clip_similarity_llm": 0.4 + 0.2 * (n == 2)}
    copied = {"dup_of": "clip02", "dup_similarity": 0.995} if (video, n) == (1, 0) else {}
    return {
        "clip_id": f"clip{video}{n}",
        "video_id": f"video{video}",
        "clip_index": n,
        "source_uri": uri,
        "source_sha256": f"hash{video}",
        "start_s": float(n),
        "end_s": n + 1.0,
        "duration_s": 1.0,
        "fps": float(FPS),
        "start_frame": n * FPS,
        "num_frames": FPS,
        "width": 64,
        "height": 48,
        "cut_in": "hard" if n else "start",
        "cut_out": "hard" if n < 2 else "end",
        "content_digest": f"frames{video}{n}",
        "motion_score": (0.01, 0.2, 0.5)[n],
        "aesthetic_score": 4.0 + 3 * video + n,
        "ocr_area_ratio": 0.0,
        "clip_similarity": 0.5 if video else None,
        "caption": "a <square> moves" if n else None,
        "clip_embedding": [float(np.cos(angle)), float(np.sin(angle)), 0.0, 0.0],
        **(captions if n else {}),
        **(fits if video and n else {}),
        **copied,
    }


def _selected(clips: list[dict[str, Any]], config: CurationConfig) -> list[dict[str, Any]]:
    keep, reasons = select(pd.DataFrame(clips), config.select)
    decided = zip(clips, keep, reasons, strict=True)
    return [clip | {"keep": bool(k), "filter_reasons": r} | (_file(clip) if k else {}) for clip, k, r in decided]


def _file(clip: dict[str, Any]) -> dict[str, Any]:
    """The columns of a clip file: of the first film copied with a tenth lost, of the second encoded whole."""
    loss = 0.1 if clip["video_id"] == "video0" else 0.0
    return {
        "file_name": f"media/clips/{clip['clip_id']}.mp4",
        "file_method": "copy" if loss else "encode",
        "file_start_s": clip["start_s"] + loss,
        "file_end_s": clip["end_s"],
        "file_num_frames": round(FPS * (1 - loss)),
        "file_loss_frac": loss,
    }


def _ending(uri: str, n: int, status: str) -> dict[str, Any]:
    decoded = {"duration_s": 3.0, "fps": float(FPS), "num_frames": 48, "width": 64, "height": 48, "codec": "h264"}
    known = {"video_id": f"video{n}", "source_uri": uri, "status": status, "num_clips": 3 if status == "ok" else 0}
    return known | (decoded | {"num_kept": 2} if status == "ok" else {})


def _run(clips: list[dict[str, Any]], video: int) -> dict[str, Any]:
    """The run of a whole film: 24 frames, eight of each clip."""
    return {
        "run_id": f"run{video}",
        "video_id": f"video{video}",
        "file_name": f"media/runs/run{video}.mp4",
        "num_frames": 24,
        "train_fps": TRAIN_FPS,
        "width": 32,
        "height": 32,
        "clip_ids": [clip["clip_id"] for clip in clips if clip["video_id"] == f"video{video}"],
        "first_frame_of_clip": [0, 8, 16],
        "run_break_reasons": ["start", "end"],
    }
