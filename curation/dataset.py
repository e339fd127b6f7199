"""A finished or growing dataset as pandas frames: query it, try other thresholds, check that it is whole."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from curation.config import CurationConfig, SelectConfig
from curation.manifest import Manifest
from curation.schema import VIDEO_STATUSES
from curation.stages.select import select
from curation.video import VideoDecodeError, decode


@dataclass(frozen=True)
class Dataset:
    """The tables of a dataset folder; each access reads what is published at that moment."""

    path: Path

    @property
    def config(self) -> CurationConfig:
        """The config whose thresholds the stored `keep` answers to."""
        return Manifest.existing(self.path).config

    @property
    def videos(self) -> pd.DataFrame:
        """One row per input with its status."""
        return pd.read_parquet(self.path / "videos")

    @property
    def clips(self) -> pd.DataFrame:
        """One row per clip with all scores, captions, `keep` and the reasons against it."""
        return pd.read_parquet(self.path / "clips")

    @property
    def runs(self) -> pd.DataFrame:
        """One row per training video."""
        return pd.read_parquet(self.path / "runs")

    @property
    def errors(self) -> pd.DataFrame:
        """One row per failed video or clip."""
        return pd.read_parquet(self.path / "errors")

    def reselect(self, config: SelectConfig) -> pd.DataFrame:
        """`clips` with `keep` and `filter_reasons` under other thresholds, from stored scores; files stay as they are.

        To store the decision: `python -m pipelines.curate --reselect --output DATASET --profile FILE.json`.
        """
        clips = self.clips
        keep, reasons = select(clips, config)
        return clips.assign(keep=keep, filter_reasons=pd.Series(reasons, dtype=object))

    def frames_of(self, run_id: str) -> Path:
        """The video file of a run."""
        runs = self.runs.set_index("run_id")
        return self.path / str(runs.loc[run_id, "file_name"])


def open_dataset(path: str | Path) -> Dataset:
    """The dataset at `path`. Raises OutputError when there is none."""
    dataset = Dataset(Path(path))
    Manifest.existing(dataset.path)
    return dataset


def verify(path: Path) -> list[str]:
    """Problems found, one line each; an empty list means the dataset is whole.

    Every input has one status, counts of the tables agree, every id leads somewhere, and every run file decodes to
    as many frames as its row says.
    """
    dataset = open_dataset(path)
    videos, clips = dataset.videos, dataset.clips
    problems = [f"videos: {uri} appears {n} times" for uri, n in Counter(_current(videos)).items() if n > 1]
    problems += [f"videos: unknown status {status}" for status in set(videos["status"]) - set(VIDEO_STATUSES)]
    problems += [f"clips: {clip} appears {n} times" for clip, n in Counter(clips["clip_id"]).items() if n > 1]
    counted = clips.groupby("video_id").size()
    for video in videos[videos["status"] == "ok"].to_dict("records"):
        found = counted.get(video["video_id"], 0)
        if found != video["num_clips"]:
            problems.append(f"videos: {video['source_uri']} has {video['num_clips']} clips, the table {found}")
    problems += [f"clips: no video {video}" for video in set(clips["video_id"]) - set(videos["video_id"])]
    if clips["keep"].isna().any():
        problems.append(f"clips: {int(clips['keep'].isna().sum())} rows not selected yet")
    return problems + _run_problems(dataset, set(clips["clip_id"]))


def _current(videos: pd.DataFrame) -> list[str]:
    return list(videos.loc[videos["status"] != "superseded", "source_uri"])


def _run_problems(dataset: Dataset, clip_ids: set[str]) -> list[str]:
    problems = []
    for run in pq.read_table(dataset.path / "runs").to_pylist():
        problems += [f"runs: {run['run_id']} names no clip {clip}" for clip in set(run["clip_ids"]) - clip_ids]
        path = dataset.path / run["file_name"]
        try:
            found = sum(1 for _ in decode(str(path)))
        except VideoDecodeError as error:
            problems.append(f"runs: {error}")
            continue
        if found != run["num_frames"]:
            problems.append(f"runs: {run['file_name']} has {found} frames, its row says {run['num_frames']}")
    return problems
