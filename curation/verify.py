"""Proof that a dataset is whole: every input has one status, ids match between tables, every named file is there and
decodes to the stated number of frames.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from curation.dataset import Dataset, open_dataset
from curation.manifest import read_json
from curation.media import MEDIA_INDEX
from curation.schema import VIDEO_STATUSES
from curation.video import VideoDecodeError, decode


def verify(place: str | Path) -> list[str]:
    """Problems found in the dataset at a path or URI, one line each; an empty list means it is whole."""
    dataset = open_dataset(place)
    videos, clips, runs, errors = dataset.videos, dataset.clips, dataset.runs, dataset.errors
    return [
        *_input_problems(dataset, videos),
        *_clip_problems(videos, clips),
        *_reference_problems(videos, clips, runs, errors),
        *_file_problems(dataset, "runs", runs, "num_frames"),
        *_file_problems(dataset, "clips", clips[clips["file_name"].notna()], "file_num_frames"),
        *_index_problems(dataset, clips),
    ]


def _input_problems(dataset: Dataset, videos: pd.DataFrame) -> Iterator[str]:
    """Every input that was ever listed has one row that is not superseded, in a status of the list."""
    current = Counter(videos.loc[videos["status"] != "superseded", "source_uri"])
    yield from (f"videos: {uri} appears {n} times" for uri, n in current.items() if n > 1)
    listed = set(read_json(dataset.store, "manifest/inputs.json"))
    yield from (f"videos: {uri} was listed but has no row" for uri in sorted(listed - set(videos["source_uri"])))
    yield from (f"videos: {uri} was never listed" for uri in sorted(set(current) - listed))
    yield from (f"videos: unknown status {status}" for status in sorted(set(videos["status"]) - set(VIDEO_STATUSES)))
    measured = videos.loc[~videos["status"].isin(["duplicate", "superseded"]), "video_id"]
    there = set(measured)
    for copy in videos.loc[videos["status"] == "duplicate"].itertuples():
        if copy.video_id not in there:
            yield f"videos: {copy.source_uri} is a duplicate of {copy.video_id}, which has no row"
    yield from (f"videos: the bytes {video} were measured {n} times" for video, n in Counter(measured).items() if n > 1)


def _clip_problems(videos: pd.DataFrame, clips: pd.DataFrame) -> Iterator[str]:
    """Clips of a video: as many as its row says, numbered 0, 1, …, in order of time, decided."""
    yield from (f"clips: {clip} appears {n} times" for clip, n in Counter(clips["clip_id"]).items() if n > 1)
    of_video = {str(video): mine for video, mine in clips.sort_values("clip_index").groupby("video_id")}
    for video in videos[videos["status"] == "ok"].to_dict("records"):
        mine = of_video.get(video["video_id"], clips.head(0))
        if len(mine) != video["num_clips"]:
            yield f"videos: {video['source_uri']} has {video['num_clips']} clips, the table {len(mine)}"
        elif list(mine["clip_index"]) != list(range(len(mine))) or not mine["start_s"].is_monotonic_increasing:
            yield f"clips: those of {video['source_uri']} are not numbered in order of time"
        elif mine["num_frames"].sum() != video["num_frames"]:
            yield f"clips: those of {video['source_uri']} do not cover its {video['num_frames']} frames"
    if undecided := int(clips["keep"].isna().sum()):
        yield f"clips: {undecided} rows not selected yet: run the same command again"
    decided = clips[clips["keep"].notna()]
    wrong = decided[decided["keep"].astype(bool) == (decided["filter_reasons"].str.len() > 0)]
    yield from (f"clips: {clip} is kept although a rule failed, or the reverse" for clip in wrong["clip_id"])


def _reference_problems(
    videos: pd.DataFrame, clips: pd.DataFrame, runs: pd.DataFrame, errors: pd.DataFrame
) -> Iterator[str]:
    """Every id leads to a row."""
    video_ids, clip_ids = set(videos["video_id"]), set(clips["clip_id"])
    yield from _dangling("clips", "video", clips["video_id"], video_ids)
    yield from _dangling("clips", "clip", clips["dup_of"].dropna(), clip_ids)
    yield from _dangling("runs", "video", runs["video_id"], video_ids)
    yield from _dangling("runs", "clip", runs["clip_ids"].explode().dropna(), clip_ids)
    yield from _dangling("errors", "video", errors["video_id"].dropna(), video_ids)
    yield from _dangling("errors", "clip", errors["clip_id"].dropna(), clip_ids)


def _dangling(table: str, what: str, named: Iterable[str], there: set[str]) -> Iterator[str]:
    yield from (f"{table}: a row names {what} {name}, which is not there" for name in sorted(set(named) - there))


def _index_problems(dataset: Dataset, clips: pd.DataFrame) -> Iterator[str]:
    """What an export in place has written names files that are there."""
    data = dataset.store.read(MEDIA_INDEX)
    if data is not None:
        named = pd.read_parquet(io.BytesIO(data), columns=["file_name"])["file_name"]
        there = set(clips["file_name"].dropna().str.removeprefix("media/"))
        yield from (f"{MEDIA_INDEX}: names {name}, which is not there" for name in sorted(set(named) - there))


def _file_problems(dataset: Dataset, table: str, rows: pd.DataFrame, count: str) -> Iterator[str]:
    for row in rows[["file_name", count]].itertuples(index=False):
        name, stated = str(row[0]), int(row[1])
        try:
            found = sum(1 for _ in decode(dataset.place_of(name)))
        except VideoDecodeError as error:
            yield f"{table}: {error}"
            continue
        if found != stated:
            yield f"{table}: {name} has {found} frames, its row says {stated}"
