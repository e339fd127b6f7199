"""A finished or growing dataset as pandas frames: query it, join it, try other thresholds, open its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow.dataset as ds

from curation import lineage
from curation.config import CurationConfig, SelectConfig
from curation.manifest import Manifest
from curation.stages.select import select
from curation.store import Store, file_system, open_file


@dataclass(frozen=True)
class Dataset:
    """The tables of a dataset; each access reads what is published at that moment."""

    store: Store

    @property
    def path(self) -> Path:
        """The folder of a dataset on a file system of this machine."""
        assert self.store.folder is not None, f"{self.store} is no folder: open its files with .open(name)"
        return self.store.folder

    @property
    def config(self) -> CurationConfig:
        """The config whose thresholds the stored `keep` answers to."""
        return Manifest.existing(self.store).config

    @property
    def videos(self) -> pd.DataFrame:
        """One row per input with its status."""
        return self.read("videos")

    @property
    def clips(self) -> pd.DataFrame:
        """One row per clip with all scores, captions, `keep` and the reasons against it."""
        return self.read("clips")

    @property
    def runs(self) -> pd.DataFrame:
        """One row per training video."""
        return self.read("runs")

    @property
    def errors(self) -> pd.DataFrame:
        """One row per failed video or clip."""
        return self.read("errors")

    def read(self, table: str, columns: list[str] | None = None) -> pd.DataFrame:
        """A table, or some of its columns."""
        files, base = file_system(self.store.root)
        return ds.dataset(f"{base}/{table}", filesystem=files, format="parquet").to_table(columns).to_pandas()

    def clips_with_videos(self) -> pd.DataFrame:
        """`clips` with the columns of their video, which are called `video_…`."""
        return lineage.clips_with_videos(self.clips, self.videos)

    def clips_of_runs(self) -> pd.DataFrame:
        """One row per clip of each run: which frames of the file it owns, and all that is known of it."""
        return lineage.clips_of_runs(self.runs, self.clips)

    def source_of(self, run_id: str, frame: int) -> lineage.SourceFrame:
        """The source, and the time in it, that a frame (0..) of a run shows."""
        return lineage.source_of(run_id, frame, self.runs, self.clips)

    def copies(self) -> pd.DataFrame:
        """One row per duplicate beside what it is a copy of, the most similar first."""
        return lineage.copies(self.clips)

    def reselect(self, config: SelectConfig) -> pd.DataFrame:
        """`clips` with `keep` and `filter_reasons` under other thresholds, from stored scores; files stay as they are.

        To store the decision: `python -m pipelines.curate --reselect --output DATASET --profile FILE.json`.
        """
        clips = self.clips
        keep, reasons = select(clips, config)
        return clips.assign(keep=keep, filter_reasons=pd.Series(reasons, dtype=object))

    def place_of(self, file_name: str) -> str:
        """Path or URI of a file named by a row: readable by anything that reads paths or URIs."""
        return self.store.place(file_name)

    def open(self, file_name: str) -> BinaryIO:
        """A file named by a row, for reading; works on object stores too."""
        return open_file(self.place_of(file_name))

    def frames_of(self, run_id: str) -> str:
        """Path or URI of the video file of a run."""
        runs = self.runs.set_index("run_id")
        return self.place_of(str(runs.loc[run_id, "file_name"]))


def open_dataset(place: str | Path) -> Dataset:
    """The dataset at a path or URI. Raises OutputError when there is none."""
    dataset = Dataset(Store.at(place))
    Manifest.existing(dataset.store)
    return dataset
