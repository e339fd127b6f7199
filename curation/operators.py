"""What each operator of the pipeline does to a row, without Ray: decode or read again, text, captions, embeddings.

What travels between operators is one row per clip (plus one for the video itself). `stale` names the stages a row
still needs; what the others measured before is in the row already. A row only ever gains columns, until the last
operator takes the pictures away. A failure becomes part of the row it concerns.

Model libraries are imported by the actors that use them: decoding processes never load torch.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from curation.analyse import ClipAnalysis, analyse_video
from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.endings import error_row
from curation.manifest import rows_to_table
from curation.model_config import MergeConfig
from curation.records import Row, VideoRecord, read_record, video_id_of, without_columns
from curation.reread import reread_pictures
from curation.schema import clips_schema
from curation.stage_graph import DECODING, GRAPH, LOOKING
from curation.store import Store
from curation.video import VideoDecodeError

if TYPE_CHECKING:
    from curation.stages.merge import Merger

CLIPS_PER_BLOCK = 8
"""Clips of one video that go through the models together: always the same ones, so that no row depends on who is early,
and few enough that memory stays flat with the length of a video.
"""
STAGE_ERRORS = (CurationError, RuntimeError, ValueError, OSError, MemoryError)
"""What a model may raise over one clip: torch errors included, mistakes in the program (TypeError, KeyError …) not."""
PICTURES = ("frames", "frames_shape", "grid", "grid_shape")
CAPTIONS = ("caption_coca", "caption_video", "caption_llm")


def row_schema(dim: int) -> pa.Schema:
    """Columns of a travelling row: those of `clips`, the video's row and errors as JSON, frames with their shapes."""
    columns = [pa.field(column.name, column.type) for column in clips_schema(dim)]
    shape = pa.list_(pa.int32())
    extra = {"uri": pa.string(), "video": pa.string(), "errors": pa.string(), "stale": pa.list_(pa.string())}
    pictures = {"frames": pa.large_binary(), "frames_shape": shape, "grid": pa.large_binary(), "grid_shape": shape}
    return pa.schema([*columns, *((extra | pictures).items())])


# --- decoding ---------------------------------------------------------------------------------------------------------


def analyse(batch: pa.Table, config: CurationConfig, dim: int, store: Store) -> Iterator[pa.Table]:
    """One video → its rows: first the video's own (clip_id null), then one per clip.

    batch: columns uri, sha256, record (name of what is known of the video; null when nothing is), stale.
    """
    for item in batch.to_pylist():
        known = read_record(store, item["record"]) if item["record"] else None
        again = known is not None and not DECODING & set(item["stale"])
        rows = _reread(known, item, config) if known and again else _decoded(known, item, config)
        video = [next(rows)]
        while block := video + list(itertools.islice(rows, CLIPS_PER_BLOCK)):
            yield rows_to_table(block, row_schema(dim))
            video = []


def _decoded(known: VideoRecord | None, item: Row, config: CurationConfig) -> Iterator[Row]:
    """The decode pass; clips that were known before keep what is not stale."""
    uri = item["uri"]
    analysis = analyse_video(uri, config, item["sha256"])
    ending = {"video_id": video_id_of(item["sha256"], uri), "finished_at": datetime.now(UTC)}
    video = {"attempts": 1} | ending | analysis.video | {"num_clips": len(analysis.clips)}
    before = {clip["clip_id"]: clip for clip in known.clips} if known else {}
    yield {"uri": uri, "video": json.dumps(video, default=_plain)}
    for clip in analysis.clips:  # their pictures are on disk until looked at
        old = before.get(str(clip.row["clip_id"]))
        kept = without_columns(old, tuple(item["stale"])) if old else {}
        stale = item["stale"] if old else list(GRAPH)
        errors = json.dumps(_other_errors(known, old, item["stale"])) if known and old else None
        yield {**kept, **clip.row, "uri": uri, "stale": stale, **_packed(clip), "errors": errors}


def _reread(known: VideoRecord, item: Row, config: CurationConfig) -> Iterator[Row]:
    """The clips as they are known, without what is stale; pictures only where a stale stage looks at them."""
    video = {**known.video, "source_uri": item["uri"]}
    yield {"uri": item["uri"], "video": json.dumps(video, default=_plain)}
    clips = [without_columns(clip, tuple(item["stale"])) for clip in known.clips]
    pictures: Sequence[ClipAnalysis | None] = [None] * len(clips)
    errors = [_other_errors(known, clip, item["stale"]) for clip in clips]
    if LOOKING & set(item["stale"]):
        try:
            pictures = reread_pictures(item["uri"], clips, config)
        except VideoDecodeError as error:
            looking = [stage for stage in item["stale"] if stage in LOOKING]
            both = zip(errors, clips, strict=True)
            errors = [[*old, *(clip_error(clip, stage, error) for stage in looking)] for old, clip in both]
    for clip, seen, old in zip(clips, pictures, errors, strict=True):
        packed = _packed(seen) if seen else {}
        yield {**clip, "uri": item["uri"], "stale": item["stale"], **packed, "errors": json.dumps(old)}


def _other_errors(known: VideoRecord, clip: Row, stale: Sequence[str]) -> list[Row]:
    """What went wrong with a clip in stages that do not run again."""
    return [error for error in known.errors if error["clip_id"] == clip["clip_id"] and error["stage"] not in stale]


def _packed(clip: ClipAnalysis) -> Row:
    return {
        "frames": clip.frames.tobytes(),
        "frames_shape": list(clip.frames.shape),
        "grid": clip.grid.tobytes(),
        "grid_shape": list(clip.grid.shape),
    }


def _pictures(row: Row, name: str) -> np.ndarray:
    """The frames (n h w 3) uint8 of column `name`."""
    return np.frombuffer(row[name], np.uint8).reshape(row[f"{name}_shape"])


# --- models -----------------------------------------------------------------------------------------------------------


class TextStage:
    """Adds the text area of the three frames."""

    def __init__(self, config: CurationConfig, dim: int) -> None:
        from curation.stages.text import TextDetector

        _one_thread()
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
    """Adds the image caption and the video caption."""

    def __init__(
        self, config: CurationConfig, dim: int, stages: Collection[str] = ("caption", "video_caption")
    ) -> None:
        from curation.stages.caption import Captioner
        from curation.stages.video_caption import VideoCaptioner

        _one_thread()
        self.captioner = Captioner(config.caption) if "caption" in stages else None
        self.video_captioner = VideoCaptioner(config.video_caption) if "video_caption" in stages else None
        self.dim = dim

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.captioner is not None:
            batch = add_columns("caption", self.image_captions, batch, self.dim)
        if self.video_captioner is not None:
            batch = add_columns("video_caption", self.video_captions, batch, self.dim)
        return batch

    def image_captions(self, rows: list[Row]) -> list[Row]:
        """Of the middle frame."""
        assert self.captioner is not None
        middles = [_pictures(row, "frames")[1] for row in rows]
        captions = self.captioner.captions(middles, [row["clip_id"] for row in rows])
        return [{"caption_coca": caption} for caption in captions]

    def video_captions(self, rows: list[Row]) -> list[Row]:
        """Of the evenly spaced frames."""
        assert self.video_captioner is not None
        clips = [_pictures(row, "grid") for row in rows]
        captions = self.video_captioner.captions(clips, [row["clip_id"] for row in rows])
        return [{"caption_video": caption} for caption in captions]


def merge_captions(batch: pa.Table, config: CurationConfig, dim: int) -> pa.Table:
    """Adds the merged caption where both others are there, and the chosen one where any is."""
    from curation.stages.merge import choose

    def merged(rows: list[Row]) -> list[Row]:
        pairs = [(row["caption_coca"], row["caption_video"]) for row in rows]
        return [{"caption_llm": text} for text in _merger(config.merge).merge(pairs)]

    def chosen(rows: list[Row]) -> list[Row]:
        return [
            {"caption": choose(row["caption_coca"], row["caption_video"], row["caption_llm"], config.choice)}
            for row in rows
        ]

    batch = add_columns("merge", merged, batch, dim, needs=("caption_coca", "caption_video"))
    return add_columns("choice", chosen, batch, dim, needs=())


@functools.lru_cache(maxsize=1)
def _merger(config: MergeConfig) -> Merger:
    from curation.stages.merge import Merger

    return Merger(config)


class EmbedStage:
    """Adds embeddings, aesthetic score and similarity of every caption."""

    def __init__(self, config: CurationConfig, dim: int) -> None:
        from curation.stages.aesthetics import AestheticHead
        from curation.stages.embed import FrameEmbedder

        _one_thread()
        self.embedder = FrameEmbedder(config.embed)
        self.head = AestheticHead.load(config.aesthetics)
        self.dim = dim

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = add_columns("embed", self.embeddings, batch, self.dim)
        batch = add_columns("aesthetics", self.scores, batch, self.dim, needs=("frame_embeddings",))
        return add_columns("similarity", self.similarities, batch, self.dim, needs=("frame_embeddings",))

    def embeddings(self, rows: list[Row]) -> list[Row]:
        """Of first, middle and last frame, and their mean."""
        from curation.stages.embed import clip_embedding

        flat = self.embedder.images([frame for row in rows for frame in _pictures(row, "frames")])
        per_clip = flat.reshape(len(rows), -1, flat.shape[-1])  # (clips, 3, d)
        return [
            {
                "frame_embeddings": three.astype(np.float16).tolist(),
                "clip_embedding": clip_embedding(three).astype(np.float16).tolist(),
            }
            for three in per_clip
        ]

    def scores(self, rows: list[Row]) -> list[Row]:
        """Aesthetic scores, from the embeddings as they are stored: the same now and when the head changes."""
        scores = [self.head.score(_stored(row, "frame_embeddings")) for row in rows]
        return [{"aesthetic_score": float(s.mean()), "aesthetic_score_frames": s.tolist()} for s in scores]

    def similarities(self, rows: list[Row]) -> list[Row]:
        """How well each caption fits the clip and each of its frames; the chosen one only the clip."""
        return [self._fit(row) for row in rows]

    def _fit(self, row: Row) -> Row:
        from curation.stages.embed import similarity

        written = [column for column in CAPTIONS if row[column]]
        if not written:
            return {}
        frames, mean = _stored(row, "frame_embeddings"), _stored(row, "clip_embedding")
        texts = dict(zip(written, self.embedder.texts([row[column] for column in written]), strict=True))
        fits: Row = {}
        for column, text in texts.items():
            name = column.replace("caption", "clip_similarity")
            fits[name] = similarity(mean, text)
            fits[f"{name}_frames"] = [similarity(frame, text) for frame in frames]
        chosen = next((column for column in written if row[column] == row["caption"]), None)
        return {**fits, "clip_similarity": fits[chosen.replace("caption", "clip_similarity")] if chosen else None}


def _stored(row: Row, column: str) -> np.ndarray:
    """Stored embeddings as unit vectors: (d,) or (3 d) float32."""
    from curation.stages.embed import unit

    return unit(np.asarray(row[column], np.float32))


class WholeVideo:
    """Everything from the URI to the finished rows in one process: nothing but rows crosses the object store."""

    def __init__(self, config: CurationConfig, dim: int, store: Store, needed: Collection[str]) -> None:
        self.config, self.dim, self.store = config, dim, store
        self.stages: list[Callable[[pa.Table], pa.Table]] = []
        if "text" in needed:
            self.stages.append(TextStage(config, dim))
        if captions := [stage for stage in ("caption", "video_caption") if stage in needed]:
            self.stages.append(CaptionStage(config, dim, captions))
        if {"merge", "choice"} & set(needed):
            self.stages.append(functools.partial(merge_captions, config=config, dim=dim))
        if {"embed", "aesthetics", "similarity"} & set(needed):
            self.stages.append(EmbedStage(config, dim))

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for block in analyse(batch, self.config, self.dim, self.store):
            for stage in self.stages:
                block = stage(block)
            yield without_pictures(block)


def without_pictures(batch: pa.Table) -> pa.Table:
    """Rows as the driver collects them."""
    return batch.drop_columns(list(PICTURES))


def add_columns(
    stage: str,
    measure: Callable[[list[Row]], list[Row]],
    batch: pa.Table,
    dim: int,
    needs: Sequence[str] = ("frames",),
) -> pa.Table:
    """Run `measure` on the clips whose `stage` is stale and that have the columns it `needs`."""
    rows = batch.to_pylist()
    stale = [row for row in rows if row["clip_id"] is not None and stage in (row["stale"] or ())]
    ready = [row for row in stale if all(row[column] is not None for column in needs)]
    for _, together in itertools.groupby(ready, key=lambda row: (row["uri"], row["clip_index"] // CLIPS_PER_BLOCK)):
        _measure_guarded(stage, measure, list(together))
    return rows_to_table(rows, row_schema(dim))


def _measure_guarded(stage: str, measure: Callable[[list[Row]], list[Row]], rows: list[Row]) -> None:
    """A batch that fails is tried again clip by clip; what one clip alone raises is its error."""
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
            row["errors"] = json.dumps([*json.loads(row["errors"] or "[]"), clip_error(row, stage, error)])


def clip_error(row: Row, stage: str, error: Exception) -> Row:
    """The row of `errors` of a clip that a stage could not measure."""
    what = (row["video_id"], row["source_uri"], row["clip_id"], stage, type(error).__name__, str(error))
    return error_row(*what)


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
