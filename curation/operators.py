"""What each operator of the pipeline does to a row, without Ray: decode, text, captions, embeddings, back to records.

What travels between operators is one row per clip (plus one for the video itself). A row only ever gains columns, until
the last operator that looks at the pictures takes those away. A failure becomes part of the row it concerns.

Model libraries are imported by the actors that use them: decoding processes never load torch.
"""

import dataclasses
import faulthandler
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.analyse import ClipAnalysis, analyse_video
from curation.config import CurationConfig, CurationError
from curation.manifest import Row, VideoRecord, rows_to_table, video_id_of
from curation.schema import clips_schema

MAX_ATTEMPTS = 3
CLIPS_PER_BLOCK = 16
STAGE_ERRORS = (CurationError, RuntimeError, ValueError, OSError, MemoryError)
"""What a model may raise over one clip: torch errors included, mistakes in the program (TypeError, KeyError …) not."""


def row_schema(dim: int) -> pa.Schema:
    """Columns of a travelling row: those of `clips`, the video's row and errors as JSON, frames with their shapes."""
    columns = [pa.field(column.name, column.type) for column in clips_schema(dim)]
    shape = pa.list_(pa.int32())
    extra = {"uri": pa.string(), "video": pa.string(), "errors": pa.string()}
    pictures = {"frames": pa.large_binary(), "frames_shape": shape, "grid": pa.large_binary(), "grid_shape": shape}
    return pa.schema([*columns, *((extra | pictures).items())])


def analyse(batch: pa.Table, config: CurationConfig, dim: int, attempts: Path) -> Iterator[pa.Table]:
    """One video → its rows: first the video's own (clip_id null), then one per clip."""
    for item in batch.to_pylist():
        rows = list(_analyse_one(item["uri"], item["sha256"], config, attempts))
        for start in range(0, len(rows), CLIPS_PER_BLOCK):
            yield rows_to_table(rows[start : start + CLIPS_PER_BLOCK], row_schema(dim))


def _analyse_one(uri: str, sha256: str, config: CurationConfig, attempts: Path) -> Iterator[Row]:
    attempt = begin_attempt(attempts, sha256)
    if attempt > MAX_ATTEMPTS:
        message = f"the decoder ended its process {MAX_ATTEMPTS} times: remove or re-encode the file"
        video = failed_video(uri, sha256, "quarantined", "decode", "WorkerLost", message)
        yield {"uri": uri, "video": json.dumps({**video, "attempts": MAX_ATTEMPTS}, default=str)}
        return
    faulthandler.dump_traceback_later(2 * config.decode.time_limit_s + 60, exit=True)  # a codec that hangs
    try:
        analysis = analyse_video(uri, config, sha256)
    finally:
        faulthandler.cancel_dump_traceback_later()
    known = {"video_id": video_id_of(sha256, uri), "finished_at": datetime.now(UTC)}  # of bytes lost since the listing
    video = known | analysis.video | {"attempts": attempt, "num_clips": len(analysis.clips)}
    yield {"uri": uri, "video": json.dumps(video, default=_plain)}
    for clip in analysis.clips:
        yield {"uri": uri, **clip.row, **_packed(clip)}


def _packed(clip: ClipAnalysis) -> Row:
    return {
        "frames": clip.frames.tobytes(),
        "frames_shape": list(clip.frames.shape),
        "grid": clip.grid.tobytes(),
        "grid_shape": list(clip.grid.shape),
    }


def _pictures(row: Row, name: str) -> list[np.ndarray]:
    """The n frames (h w 3) uint8 of column `name`."""
    return list(np.frombuffer(row[name], np.uint8).reshape(row[f"{name}_shape"]))


class TextStage:
    """Adds ocr_area_ratio."""

    def __init__(self, config: CurationConfig, dim: int) -> None:
        from curation.stages.text import TextDetector

        self.detector = TextDetector(config.text)
        self.dim = dim

    def __call__(self, batch: pa.Table) -> pa.Table:
        return add_columns("text", self.measure, batch, self.dim)

    def measure(self, rows: list[Row]) -> list[Row]:
        """Text area of the three frames of each clip."""
        frames = [_pictures(row, "frames") for row in rows]
        flat = self.detector.area_frac([frame for three in frames for frame in three])
        per_clip = np.array(flat, np.float64).reshape(len(rows), -1)
        return [{"ocr_area_ratio": float(areas.mean()), "ocr_area_ratio_frames": areas.tolist()} for areas in per_clip]


class CaptionStage:
    """Adds the captions."""

    def __init__(self, config: CurationConfig, dim: int) -> None:
        from curation.stages.caption import Captioner

        _one_thread()
        self.captioner = Captioner(config.caption)
        self.dim = dim

    def __call__(self, batch: pa.Table) -> pa.Table:
        return add_columns("caption", self.measure, batch, self.dim)

    def measure(self, rows: list[Row]) -> list[Row]:
        """Image caption from the middle frame, video caption from the grid, and their merger."""
        middles = [_pictures(row, "frames")[1] for row in rows]
        captions = self.captioner.clips(middles, [_pictures(row, "grid") for row in rows])
        return [dataclasses.asdict(caption) for caption in captions]


class EmbedStage:
    """Adds embedding, aesthetic score and similarity of every caption; takes the frames away."""

    def __init__(self, config: CurationConfig, dim: int) -> None:
        from curation.stages.aesthetics import AestheticHead
        from curation.stages.embed import FrameEmbedder

        _one_thread()
        self.embedder = FrameEmbedder(config.embed)
        self.head = AestheticHead.load(config.aesthetics)
        self.dim = dim

    def __call__(self, batch: pa.Table) -> pa.Table:
        table = add_columns("embed", self.measure, batch, self.dim)
        return table.drop_columns(["frames", "frames_shape", "grid", "grid_shape"])

    def measure(self, rows: list[Row]) -> list[Row]:
        """Embeddings of first, middle, last frame → scores."""
        frames = [_pictures(row, "frames") for row in rows]
        flat = self.embedder.images([frame for three in frames for frame in three])
        per_clip = flat.reshape(len(rows), -1, flat.shape[-1])  # (clips, 3, d)
        return [{**self._scores(three), **self._fit(three, row)} for three, row in zip(per_clip, rows, strict=True)]

    def _scores(self, embeddings: np.ndarray) -> Row:
        from curation.stages.embed import clip_embedding

        scores = self.head.score(embeddings)
        embedding = clip_embedding(embeddings).astype(np.float16)
        return {
            "clip_embedding": embedding.tolist(),
            "aesthetic_score": float(scores.mean()),
            "aesthetic_score_frames": scores.tolist(),
        }

    def _fit(self, embeddings: np.ndarray, row: Row) -> Row:
        from curation.stages.embed import clip_embedding, similarity

        columns = ["caption", "caption_coca", "caption_video", "caption_llm"]
        written = [column for column in columns if row[column]]
        if not written:
            return {}
        mean = clip_embedding(embeddings)
        texts = self.embedder.texts([row[column] for column in written])
        fits = zip(written, texts, strict=True)
        return {column.replace("caption", "clip_similarity"): similarity(mean, text) for column, text in fits}


def add_columns(stage: str, measure: Callable[[list[Row]], list[Row]], batch: pa.Table, dim: int) -> pa.Table:
    """Run `measure` on the clip rows of a batch; one that fails is tried again clip by clip."""
    rows = batch.to_pylist()
    _measure_guarded(stage, measure, [row for row in rows if row["clip_id"] is not None])
    return rows_to_table(rows, row_schema(dim))


def _measure_guarded(stage: str, measure: Callable[[list[Row]], list[Row]], rows: list[Row]) -> None:
    if not rows:
        return
    try:
        for row, new in zip(rows, measure(rows), strict=True):
            row.update(new)
    except STAGE_ERRORS as error:
        if len(rows) > 1:
            for row in rows:
                _measure_guarded(stage, measure, [row])
        else:
            row = rows[0]
            what = (row["video_id"], row["uri"], row["clip_id"], stage, type(error).__name__, str(error))
            row["errors"] = json.dumps([*json.loads(row["errors"] or "[]"), error_row(*what)])


def error_row(video_id: str | None, uri: str, clip_id: str | None, stage: str, kind: str, message: str) -> Row:
    """A row of `errors`."""
    return {
        "video_id": video_id,
        "source_uri": uri,
        "clip_id": clip_id,
        "stage": stage,
        "error_type": kind,
        "error_message": " ".join(message.split())[:500],
        "attempt": 1,
        "occurred_at": datetime.now(UTC).isoformat(),
    }


def _one_thread() -> None:
    """Actors share the machine: more threads than CPUs asked for would only push each other aside."""
    import torch

    torch.set_num_threads(1)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a row of videos")


# --- rows to records --------------------------------------------------------------------------------------------------


def collect(rows: Iterable[Row], dim: int) -> Iterator[VideoRecord]:
    """Put clips, which arrive in any order and among other videos', back together; complete videos are passed on."""
    names = clips_schema(dim).names
    videos: dict[str, Row] = {}
    clips: dict[str, list[Row]] = {}
    for row in rows:
        uri = row["uri"]
        if row["clip_id"] is None:
            videos[uri] = json.loads(row["video"])
        else:
            clips.setdefault(uri, []).append(row)
        if uri in videos and len(clips.get(uri, [])) == videos[uri]["num_clips"]:
            yield _record(videos.pop(uri), clips.pop(uri, []), names)
    incomplete = sorted({*videos, *clips})
    assert not incomplete, f"rows of {incomplete[:3]} were lost between operators"


def _record(video: Row, rows: list[Row], names: Sequence[str]) -> VideoRecord:
    ordered = sorted(rows, key=lambda row: row["clip_index"])
    errors = [error for row in ordered for error in json.loads(row["errors"] or "[]")]
    clips = [{name: _listed(row[name]) for name in names} for row in ordered]
    return VideoRecord(video, clips, [*errors, *video_errors(video)])


def _listed(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def video_errors(video: Row) -> list[Row]:
    """The row of `errors` that belongs to a video that did not end well."""
    if video.get("error_type") is None:
        return []
    what = (video["error_stage"], video["error_type"], video["error_message"])
    row = error_row(video["video_id"], video["source_uri"], None, *what)
    return [{**row, "attempt": video.get("attempts") or 1}]


def failed_video(uri: str, sha256: str | None, status: str, stage: str, kind: str, message: str) -> Row:
    """A row of `videos` for an input that never reached the decoder or never came back."""
    return {
        "video_id": video_id_of(sha256, uri),
        "source_uri": uri,
        "source_sha256": sha256,
        "status": status,
        "error_stage": stage,
        "error_type": kind,
        "error_message": message,
        "num_clips": 0,
        "attempts": 1,
        "finished_at": datetime.now(UTC).isoformat(),
    }


def begin_attempt(attempts: Path, sha256: str) -> int:
    """Count a try before it starts: the count outlives a process that the decoder takes down. Returns 1, 2, …"""
    attempts.mkdir(parents=True, exist_ok=True)
    number = 1 + len(list(attempts.glob(f"{sha256}.*")))
    (attempts / f"{sha256}.{number}").touch()
    return number


def forget_attempts(attempts: Path) -> None:
    """Tries are counted within one job: ending the job by hand is not the file's fault."""
    for path in attempts.glob("*"):
        path.unlink()
