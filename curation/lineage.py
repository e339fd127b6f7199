"""Joins and lineage over the tables of a dataset, as pure functions of pandas frames: clips with their videos, runs
taken apart into clips, a frame of a run traced back to its source, copies beside what they are copies of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from curation.config_error import CurationError


@dataclass(frozen=True, kw_only=True)
class SourceFrame:
    """Where a frame of a run comes from: the picture shown in the source at `time_s` (s, its own clock)."""

    source_uri: str
    time_s: float
    video_id: str
    clip_id: str


def clips_with_videos(clips: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """`clips`, row by row as they are, with the columns of their video, which are called `video_…`.

    Of a video listed twice (a duplicate, or superseded at another place) the row that owns the clips is joined.
    """
    owners = videos.sort_values("status", key=lambda status: status != "ok", kind="stable").drop_duplicates("video_id")
    named = owners.rename(columns=lambda name: name if name.startswith("video_") else f"video_{name}")
    return clips.reset_index(drop=True).merge(named, on="video_id", how="left", validate="many_to_one")


def clips_of_runs(runs: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """One row per clip of each run, in the order of the runs and of time.

    Columns: run_id, run_file_name, train_fps; position, 0.. in the run; first_frame, end_frame, the frames
    first_frame <= i < end_frame of the run's file that show the clip; then every column of `clips`.

    Raises:
        CurationError: a run names a clip that `clips` lacks.
    """
    own = runs[["run_id", "file_name", "train_fps", "num_frames", "clip_ids", "first_frame_of_clip"]]
    parts = own.rename(
        columns={"file_name": "run_file_name", "clip_ids": "clip_id", "first_frame_of_clip": "first_frame"}
    )
    parts = parts.explode(["clip_id", "first_frame"], ignore_index=True).dropna(subset="clip_id")
    of_run = parts.groupby("run_id", sort=False)
    parts.insert(3, "position", of_run.cumcount())
    following = of_run["first_frame"].shift(-1)
    parts["end_frame"] = following.where(following.notna(), parts["num_frames"])
    parts = parts.drop(columns="num_frames").astype({"first_frame": np.int64, "end_frame": np.int64})
    missing = parts.loc[~parts["clip_id"].isin(clips["clip_id"]), ["run_id", "clip_id"]]
    if len(missing):
        run, clip = missing.iloc[0]
        raise CurationError(f"run {run} names clip {clip}, which is not in clips: pass the whole tables of one dataset")
    return parts.merge(clips, on="clip_id", how="left", validate="many_to_one")


def source_of(run_id: str, frame: int, runs: pd.DataFrame, clips: pd.DataFrame) -> SourceFrame:
    """The source and the time in it that frame `frame` (0..) of a run shows.

    A run holds the pictures shown at equal steps of 1 / train_fps from the start of its first clip on.

    Raises:
        CurationError: no such run, or no such frame in it.
    """
    of_id = runs[runs["run_id"] == run_id]
    if of_id.empty:
        raise CurationError(f"there is no run {run_id!r}: take a run_id of the table runs")
    num_frames, train_fps = int(of_id["num_frames"].iloc[0]), float(of_id["train_fps"].iloc[0])
    if not 0 <= frame < num_frames:
        raise CurationError(f"run {run_id} has no frame {frame}: give one of 0..{num_frames - 1}")
    parts = clips_of_runs(of_id, clips)
    shown = parts[parts["first_frame"] <= frame].iloc[-1]
    time_s = float(parts["start_s"].iloc[0]) + frame / train_fps
    return SourceFrame(
        source_uri=str(shown["source_uri"]),
        time_s=time_s,
        video_id=str(shown["video_id"]),
        clip_id=str(shown["clip_id"]),
    )


def copies(clips: pd.DataFrame) -> pd.DataFrame:
    """One row per duplicate, the most similar first: its columns of `clips`, and those of what it is a copy of, which
    are called `…_of_original`.
    """
    marked = clips[clips["dup_of"].notna()]
    originals = clips.drop(columns=["dup_of", "dup_similarity"]).add_suffix("_of_original")
    pairs = marked.merge(
        originals, left_on="dup_of", right_on="clip_id_of_original", how="left", validate="many_to_one"
    )
    return pairs.sort_values(["dup_similarity", "clip_id"], ascending=[False, True], ignore_index=True)
