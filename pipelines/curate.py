"""Footage in, Parquet dataset out: `python -m pipelines.curate --input DIR --output DATASET`.

The same command run again goes on where it ended. Local Ray by default; inside `ray job submit` the cluster it came to.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from curation import profiles
from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.config_json import fingerprint, from_json, to_dict
from curation.manifest import config_of
from curation.store import Store
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Cut, measure, caption and select raw footage on Ray."""

    output: str
    """Dataset: a folder (new, empty, or one made by this command before) that all nodes share, or a URI (s3://…)."""
    input: str | None = None
    """Folder (searched below), glob in quotes, list file with a path or URI per line, or one video; paths or URIs."""
    profile: str | None = None
    """demo (small shipped models), svd (Stable Video Diffusion's recipe), or a JSON file like DATASET/config.json.
    Default: what the dataset in --output was made with last, and for a new one demo."""
    materialize: Literal["none", "copy", "encode", "auto"] | None = None
    """Files of single kept clips: none, stream copies, H.264 at training size, or copies where at most 5 % is lost and
    H.264 otherwise. Default: what the profile says (none)."""
    llm_url: str | None = None
    """OpenAI-compatible endpoint that merges the captions, with --llm-model; its key comes from OPENAI_API_KEY."""
    llm_model: str | None = None
    """Model to ask for at --llm-url."""
    max_failures: int | None = None
    """End the job once more inputs than this have failed; by default it goes on whatever happens."""
    retry_failed: bool = False
    """Try failed and quarantined inputs, and stages that failed on single clips, once more."""
    reselect: bool = False
    """Apply the profile's thresholds and media settings to the scores in --output; nothing is measured again."""
    prune: bool = False
    """Delete media files that no row names any more."""
    verify: bool = False
    """Check that the dataset in --output is whole, and change nothing."""
    ray_address: str | None = None
    """Ray cluster to use; without it RAY_ADDRESS, and without that this machine."""
    num_cpus: int | None = None
    """CPUs Ray may use on this machine; all by default."""


def main(config: Curate) -> None:
    """Curate, reselect or verify, and print a summary."""
    if config.verify and config.reselect:
        raise CurationError("--verify changes nothing, --reselect does: give one of them")
    if config.reselect and config.input is not None:
        raise CurationError("--reselect measures nothing: leave out --input, or leave out --reselect")
    if config.verify:
        return _verify(config.output)
    from curation import job

    where = job.Cluster(config.ray_address, config.num_cpus)
    manners = job.Manners(config.max_failures, config.retry_failed, config.prune)
    if config.reselect:
        print(job.reselect(config.output, stages(config), where, manners))
        return None
    if config.input is None:
        raise CurationError("--input is missing: give a folder, glob, list file or video")
    print(job.curate(config.input, config.output, stages(config), where, manners))
    return None


def stages(config: Curate) -> CurationConfig:
    """The profile with what the command line changes of it."""
    profile = load_profile(config.profile) if config.profile else _last_profile(config.output)
    if config.materialize is not None:
        profile = replace(profile, clip_files=replace(profile.clip_files, materialize=config.materialize))
    merge = profile.merge
    url, model = config.llm_url or merge.llm_url, config.llm_model or merge.llm_model
    return replace(profile, merge=replace(merge, llm_url=url, llm_model=model))


def _last_profile(output: str) -> CurationConfig:
    """The config of the dataset that is there; a named profile of the same values finds its models in this checkout."""
    stored = config_of(Store.at(output))
    if stored is None:
        return profiles.demo()
    named = profiles.PROFILES.get(stored.profile)
    return named() if named and fingerprint(named()) == fingerprint(stored) else stored


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
        return from_json(path.read_text("utf-8"), CurationConfig)
    except UnicodeDecodeError as error:
        raise CurationError(
            f"profile {path} is no text ({error}): give a JSON file like a dataset's config.json"
        ) from error


def whole_config(config: Curate) -> dict[str, object]:
    """The script's own settings and those of every stage."""
    return {**vars(config), "stages": to_dict(stages(config))}


def _verify(output: str) -> None:
    from curation.verify import verify

    problems = verify(output)
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
