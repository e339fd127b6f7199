"""The Parquet contract: pyarrow schemas of videos, clips, runs and errors, one line per column with unit,
range and producing stage.

Null means "not measured"; no column uses a sentinel. `clips_schema` takes the width of the embedding, which
the model decides.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

VIDEO_STATUSES = ("ok", "empty", "failed", "quarantined", "duplicate", "superseded")
CUT_KINDS = ("hard", "fade", "dissolve", "start", "end", "max_length")


def _column(name: str, kind: pa.DataType, stage: str, unit: str, text: str, nullable: bool = True) -> pa.Field:
    metadata = {"stage": stage, "unit": unit, "description": text}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


_STR, _BOOL, _I32, _I64 = pa.string(), pa.bool_(), pa.int32(), pa.int64()
_F32, _F64, _TIME = pa.float32(), pa.float64(), pa.timestamp("us", tz="UTC")

VIDEOS = pa.schema([
    _column("video_id", _STR, "input", "id", "from the content hash; of unreadable ones, the place", nullable=False),
    _column("source_uri", _STR, "input", "URI", "where the video was read", nullable=False),
    _column("source_sha256", _STR, "input", "hex", "hash of the bytes; null when they could not be read"),
    _column("size_bytes", _I64, "input", "bytes", "size of the source"),
    _column("status", _STR, "pipeline", "one of VIDEO_STATUSES", "the one end every input comes to", nullable=False),
    _column("error_stage", _STR, "pipeline", "name", "stage that failed; null when none"),
    _column("error_type", _STR, "pipeline", "name", "class of the error"),
    _column("error_message", _STR, "pipeline", "text", "one line"),
    _column("container", _STR, "decode", "name", "demuxer, e.g. mov,mp4,m4a,3gp,3g2,mj2"),
    _column("codec", _STR, "decode", "name", "video codec, e.g. h264"),
    _column("duration_s", _F64, "decode", "s", "presentation time from first to end of last decoded frame"),
    _column("fps", _F64, "decode", "1/s", "mean rate of the decoded frames"),
    _column("num_frames", _I32, "decode", "count", "frames decoded, whatever the header says"),
    _column("width", _I32, "decode", "px", "as displayed: after rotation and pixel aspect"),
    _column("height", _I32, "decode", "px", "as displayed"),
    _column("num_clips", _I32, "scenes", "count", "rows of this video in clips"),
    _column("num_kept", _I32, "select", "count", "of these kept; null before selection"),
    _column("attempts", _I32, "pipeline", "count", "tries so far"),
    _column("cpu_s", _F64, "pipeline", "s", "processor time of the decode pass"),
    _column("wall_s", _F64, "pipeline", "s", "wall time of the decode pass"),
    _column("finished_at", _TIME, "pipeline", "UTC", "when the status was reached"),
])  # fmt: skip


def clips_schema(embedding_dim: int) -> pa.Schema:
    """Schema of `clips`; `embedding_dim` is the width d of the CLIP model's image embedding."""
    return pa.schema([*_SPAN, *_SCORES, *_embeddings(embedding_dim), *_CAPTIONS, *_DECISION, *_FILE])


_SPAN = [
    _column("clip_id", _STR, "scenes", "id", "from content hash and span: stable across runs", nullable=False),
    _column("video_id", _STR, "input", "id", "row of videos", nullable=False),
    _column("clip_index", _I32, "scenes", "0..", "order in the video", nullable=False),
    _column("source_uri", _STR, "input", "URI", "where the video was read", nullable=False),
    _column("source_sha256", _STR, "input", "hex", "hash of the source's bytes", nullable=False),
    _column("start_s", _F64, "scenes", "s", "presentation time of the first frame", nullable=False),
    _column("end_s", _F64, "scenes", "s", "presentation time just after the last frame", nullable=False),
    _column("duration_s", _F64, "scenes", "s", "end_s - start_s", nullable=False),
    _column("fps", _F64, "scenes", "1/s", "num_frames / duration_s"),
    _column("start_pts", _I64, "scenes", "time base", "of the first frame", nullable=False),
    _column("end_pts", _I64, "scenes", "time base", "of the first frame after the clip", nullable=False),
    _column("start_frame", _I32, "scenes", "0..", "index of the first frame in the decoded video", nullable=False),
    _column("num_frames", _I32, "scenes", "count", "decoded frames of the clip", nullable=False),
    _column("width", _I32, "decode", "px", "as displayed", nullable=False),
    _column("height", _I32, "decode", "px", "as displayed", nullable=False),
    _column("cut_in", _STR, "scenes", "one of CUT_KINDS", "what the clip begins with", nullable=False),
    _column("cut_out", _STR, "scenes", "one of CUT_KINDS", "what it ends with", nullable=False),
    _column("content_digest", _STR, "decode", "hex", "hash of the decoded frames, reduced: exact copies share it"),
]  # fmt: skip

_SCORES = [
    _column("frame_times_s", pa.list_(_F64), "decode", "s", "of first, middle and last frame as measured"),
    _column("grid_times_s", pa.list_(_F64), "decode", "s", "presentation times of the video captioner's frames"),
    _column("motion_score", _F32, "motion", "frame heights/s, 0..", "mean flow speed; null without two samples"),
    _column("ocr_area_ratio", _F32, "text", "0..1", "mean over the three frames of text area / image area"),
    _column("ocr_area_ratio_frames", pa.list_(_F32), "text", "0..1", "the same per frame"),
    _column("aesthetic_score", _F32, "aesthetics", "about 1..10", "mean over the three frames"),
    _column("aesthetic_score_frames", pa.list_(_F32), "aesthetics", "about 1..10", "the same per frame"),
    _column("clip_similarity", _F32, "embed", "-1..1", "cosine of the mean image embedding and the chosen caption"),
    _column("clip_similarity_coca", _F32, "embed", "-1..1", "the same with caption_coca"),
    _column("clip_similarity_video", _F32, "embed", "-1..1", "the same with caption_video"),
    _column("clip_similarity_llm", _F32, "embed", "-1..1", "the same with caption_llm"),
    _column("clip_similarity_coca_frames", pa.list_(_F32), "embed", "-1..1", "caption_coca and each frame"),
    _column("clip_similarity_video_frames", pa.list_(_F32), "embed", "-1..1", "caption_video and each frame"),
    _column("clip_similarity_llm_frames", pa.list_(_F32), "embed", "-1..1", "caption_llm and each frame"),
]  # fmt: skip

_CAPTIONS = [
    _column("caption", _STR, "caption", "text", "the chosen one"),
    _column("caption_coca", _STR, "caption", "text", "of the middle frame"),
    _column("caption_video", _STR, "caption", "text", "of evenly spaced frames"),
    _column("caption_llm", _STR, "caption", "text", "merger of the two"),
]  # fmt: skip

_DECISION = [
    _column("dup_of", _STR, "dedup", "id", "clip_id of the better copy"),
    _column("dup_similarity", _F32, "dedup", "-1..1", "cosine to it"),
    _column("keep", _BOOL, "select", "bool", "null before selection"),
    _column("filter_reasons", pa.list_(_STR), "select", "names", "every rule that failed; empty when kept"),
]  # fmt: skip

_FILE = [
    _column("file_name", _STR, "clip_files", "path", "clip file relative to the dataset; null unless written"),
    _column("file_method", _STR, "clip_files", "copy or encode", "how it was written"),
    _column("file_start_s", _F64, "clip_files", "s", "presentation time, in the source, of the file's first frame"),
    _column("file_end_s", _F64, "clip_files", "s", "presentation time, in the source, just after its last frame"),
    _column("file_num_frames", _I32, "clip_files", "count", "frames in the file"),
    _column("file_loss_frac", _F32, "clip_files", "0..1", "share of the clip's duration that the file lacks"),
]  # fmt: skip

RUNS = pa.schema([
    _column("run_id", _STR, "runs", "id", "from content hash and span", nullable=False),
    _column("video_id", _STR, "runs", "id", "row of videos", nullable=False),
    _column("file_name", _STR, "runs", "path", "video file relative to the dataset", nullable=False),
    _column("num_frames", _I32, "runs", "count", "frames in the file", nullable=False),
    _column("train_fps", _F64, "runs", "1/s", "constant rate of the file", nullable=False),
    _column("width", _I32, "runs", "px", "training size", nullable=False),
    _column("height", _I32, "runs", "px", "training size", nullable=False),
    _column("clip_ids", pa.list_(_STR), "runs", "ids", "clips in order", nullable=False),
    _column("first_frame_of_clip", pa.list_(_I32), "runs", "0..", "where each clip begins in the file", nullable=False),
    _column("run_break_reasons", pa.list_(_STR), "runs", "names", "why it begins and ends there", nullable=False),
])  # fmt: skip

ERRORS = pa.schema([
    _column("video_id", _STR, "input", "id", "row of videos"),
    _column("source_uri", _STR, "input", "URI", "what failed", nullable=False),
    _column("clip_id", _STR, "scenes", "id", "null when the whole video failed"),
    _column("stage", _STR, "pipeline", "name", "where it failed", nullable=False),
    _column("error_type", _STR, "pipeline", "name", "class of the error", nullable=False),
    _column("error_message", _STR, "pipeline", "text", "one line", nullable=False),
    _column("attempt", _I32, "pipeline", "1..", "which try", nullable=False),
    _column("occurred_at", _TIME, "pipeline", "UTC", "when", nullable=False),
])  # fmt: skip


def video_id(source_sha256: str) -> str:
    """Identity of a video: the first 16 hex digits of the hash of its bytes."""
    return source_sha256[:16]


def clip_id(source_sha256: str, start_pts: int, end_pts: int) -> str:
    """Identity of a span of a video; the same bytes and span give the same id on any machine."""
    return hashlib.sha256(f"{source_sha256}:{start_pts}:{end_pts}".encode()).hexdigest()[:16]


def _embeddings(dim: int) -> list[pa.Field]:
    kind = pa.list_(pa.float16(), dim)
    return [
        _column("clip_embedding", kind, "embed", "unit length", "L2-normalised mean of the three frames' embeddings"),
        _column("frame_embeddings", pa.list_(kind), "embed", "unit length", "of first, middle and last frame"),
    ]
