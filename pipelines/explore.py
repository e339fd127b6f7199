"""Write one HTML page about a dataset, the trainings on it and a video made by them."""

import sys
from dataclasses import dataclass
from pathlib import Path

from curation.config_error import CurationError
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Explore:
    dataset: str
    """Dataset written by pipelines.curate: a folder or a URI."""
    output: Path
    """The HTML file to write; it needs no other file."""
    runs: tuple[Path, ...] = ()
    """Run folders written by pipelines.train, in the order to show them."""
    video: Path | None = None
    """Video written by pipelines.generate, with its .json beside it."""
    clips: int = 24
    """Clips to show of those kept, and as many of those rejected."""
    title: str = "NUWA-XL: footage to film"


def main(config: Explore) -> None:
    if config.output.is_dir():
        raise CurationError(f"output {config.output} is a folder; give the name of an .html file")
    if config.output.suffix != ".html":
        raise CurationError(f"output {config.output} does not end in .html; give the name of an .html file")
    from curation import report
    from curation.dataset import open_dataset
    from curation.page import render
    from pipelines.explore_runs import film, training

    dataset = open_dataset(config.dataset)
    parts = [film(config.video)] if config.video else []
    parts += report.sections(dataset, config.clips)
    if config.runs:
        parts.append(training(config.runs))
    subtitle = f"Dataset {config.dataset}, profile {dataset.config.profile}"
    page = render(config.title, subtitle, report.headline(dataset), parts)
    draft = config.output.with_name(f"_{config.output.name}")
    try:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(page, "utf-8")
    except OSError as error:
        raise CurationError(f"{config.output} cannot be written ({error}); give another --output") from error
    draft.replace(config.output)
    print(f"{config.output}: {len(page) / 1e6:.1f} MB, {len(parts)} sections")


if __name__ == "__main__":
    sys.exit(cli.run(main, Explore))
