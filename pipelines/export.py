"""Clips for other trainers: `python -m pipelines.export --dataset DATASET --format videofolder --output FOLDER`."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from curation.config_error import CurationError
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the clip files of a dataset in a form that other trainers read."""

    dataset: str
    """Dataset folder or URI written by pipelines.curate with --materialize copy, encode or auto."""
    format: Literal["videofolder", "webdataset", "opensora"]
    """videofolder: Hugging Face's folder with metadata.parquet. webdataset: tar shards of video, caption and scores.
    opensora: one CSV that names the files."""
    output: Path | None = None
    """New or empty folder, or an earlier export of the same format, which is replaced; for opensora the .csv file.
    Without it videofolder writes only DATASET/media/metadata.parquet and copies nothing."""
    where: str = "keep"
    """Which clips: a pandas expression over the columns of clips, e.g. "keep and motion_score > 0.1"."""
    clips_per_shard: int = 1000
    """For webdataset."""


def main(config: Export) -> None:
    """Export and print a summary."""
    if config.output is not None and re.match(r"[a-z][a-z0-9+.-]+:/", str(config.output)):
        raise CurationError(f"output {config.output} is not on this machine: give a folder or a mount, then upload it")
    from curation import exporters
    from curation.dataset import open_dataset

    dataset = open_dataset(config.dataset)
    if config.format == "videofolder":
        print(exporters.export_videofolder(dataset, config.output, config.where))
    elif config.format == "webdataset":
        print(exporters.export_webdataset(dataset, config.output, config.where, config.clips_per_shard))
    else:
        print(exporters.export_opensora(dataset, config.output, config.where))


if __name__ == "__main__":
    sys.exit(cli.run(main, Export))
