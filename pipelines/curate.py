"""Footage in, Parquet dataset out: `python -m pipelines.curate --input DIR --output DATASET`.

The same command run again goes on where it ended. Local Ray by default; inside `ray job submit` the cluster it came to.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from curation import config_json, profiles
from curation.config import CurationConfig, CurationError
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Cut, measure, caption and select raw footage on Ray."""

    output: Path
    """Dataset folder: new, empty, or the one this very command made before."""
    input: str | None = None
    """Folder (searched below), glob in quotes, list file with a path or URI per line, or one video."""
    profile: str = "demo"
    """demo (small shipped models), svd (Stable Video Diffusion's recipe), or a JSON file like DATASET/config.json."""
    ray_address: str | None = None
    """Ray cluster to use; without it RAY_ADDRESS, and without that this machine."""
    num_cpus: int | None = None
    """CPUs Ray may use on this machine; all by default."""
    reselect: bool = False
    """Apply the profile's thresholds and run settings to the scores in --output; nothing is measured again."""
    verify: bool = False
    """Check that the dataset in --output is whole, and change nothing."""


def main(config: Curate) -> None:
    """Curate, reselect or verify, and print a summary."""
    if config.verify:
        return _verify(config.output)
    from curation import job

    if re.match(r"[a-z][a-z0-9+.-]+:/", str(config.output)):
        raise CurationError(
            f"output {config.output} is no folder: give one that all nodes share, a mount of it for one"
        )
    where = job.Cluster(config.ray_address, config.num_cpus)
    if config.reselect:
        print(job.reselect(config.output, load_profile(config.profile), where))
        return None
    if config.input is None:
        raise CurationError("--input is missing: give a folder, glob, list file or video")
    print(job.curate(config.input, config.output, load_profile(config.profile), where))
    return None


def load_profile(name: str) -> CurationConfig:
    """A named profile, or a curation config in a JSON file."""
    path = Path(name)
    if path.suffix != ".json":
        return profiles.profile(name)
    if not path.is_file():
        raise CurationError(
            f"profile {path} does not exist: give demo, svd, or a JSON file like a dataset's config.json"
        )
    try:
        return config_json.from_json(path.read_text("utf-8"), CurationConfig)
    except UnicodeDecodeError as error:
        raise CurationError(
            f"profile {path} is no text ({error}): give a JSON file like a dataset's config.json"
        ) from error


def whole_config(config: Curate) -> dict[str, object]:
    """The script's own settings and those of every stage."""
    return {**vars(config), "stages": config_json.to_dict(load_profile(config.profile))}


def _verify(output: Path) -> None:
    from curation import dataset

    problems = dataset.verify(output)
    for problem in problems:
        print(problem)
    if problems:
        raise CurationError(
            f"{output} is not whole ({len(problems)} problems): run the command that made it again; for a damaged "
            "file in media/ delete that file first"
        )
    print(f"{output}: whole")


if __name__ == "__main__":
    sys.exit(cli.run(main, Curate, whole=whole_config))
