"""A small dataset whose clip files exist, for the tests of exports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from curation.dataset import Dataset, open_dataset
from curation.video import write_video
from tests.curation import small_dataset


def build_with_files(root: Path) -> Path:
    """The small dataset below `root`: of six clips four are kept, each with a grey file of as many frames as stated."""
    dataset = open_dataset(small_dataset.build(root))
    for n, clip in enumerate(dataset.clips.dropna(subset="file_name").to_dict("records")):
        images = np.full((int(clip["file_num_frames"]), 32, 32, 3), 40 * n, np.uint8)
        write_video(dataset.path / clip["file_name"], images, fps=16)
    return dataset.path


def kept(dataset: Dataset) -> pd.DataFrame:
    return dataset.clips[dataset.clips["keep"]].set_index("clip_id")


def change_clips(dataset: Dataset, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    part = dataset.path / "clips" / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(type(table).from_pylist([row | change(row) for row in table.to_pylist()], table.schema), part)
