"""Encode a dataset once: latents of windows, conditions and prompts, which trainings then read in place of footage.

The same command again does what is missing; one that has nothing to do starts nothing.
"""

import sys
import time
from dataclasses import dataclass
from functools import partial

from rich.progress import Progress
from tyro.conf import Positional

from nuwa.train.encode_config import EncodeConfig, check_config
from pipelines import cli
from pipelines.generation_progress import BETWEEN_LINES_S


@dataclass(frozen=True, kw_only=True)
class Encode(EncodeConfig):
    """Encode a dataset once: latents of windows, conditions and prompts, which trainings read in place of footage."""

    stage: Positional[str]
    """What the latents are for: mtd (windows and their conditions) or image (single frames)."""


def main(config: Encode) -> None:
    """Say what is missing and how large it is, then encode it; or verify what is there."""
    check_config(config)
    from nuwa.train.encode_job import in_words, prepare, run  # torch takes seconds to import
    from nuwa.train.encode_verify import verify

    job = prepare(EncodeConfig(**vars(config)))
    if config.verify:
        found = verify(job)
        print(
            f"{config.output}: {found.files} files whole; {found.windows} windows encoded again, largest difference "
            f"{found.largest:.2g}"
        )
        return
    print(
        f"{len(job.runs)} runs, {job.window_count} windows and conditions of {job.spec.length} frames, "
        f"{len(job.prompts)} prompts: {in_words(job.wanted_bytes)}; to encode: {job.windows}, "
        f"{in_words(job.missing_bytes)}",
        flush=True,
    )
    seen = sys.stdout.isatty()
    with Progress(transient=True, disable=not seen) as progress:
        bar = partial(progress.advance, progress.add_task("windows", total=job.windows))
        advance = bar if seen else _Log(job.windows).advance
        run(job, lambda written: advance(written.windows))
    print(f"latents: {config.output}")


class _Log:
    """A line now and then, for a log file."""

    def __init__(self, windows: int) -> None:
        self.windows, self.done, self.last_s = windows, 0, time.monotonic()

    def advance(self, windows: int) -> None:
        """Count windows that are done."""
        self.done += windows
        if time.monotonic() - self.last_s >= BETWEEN_LINES_S:
            self.last_s = time.monotonic()
            print(f"windows {self.done}/{self.windows}", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main, Encode))
