"""Generate a long video from a story of prompts.

The same command again says that it is done, goes on from the finished windows of an interrupted one, or says what
differs from what is there.
"""

import sys

from nuwa.generate.config import GenerateConfig
from pipelines import cli, generation_progress


def main(config: GenerateConfig) -> None:
    """Check everything, generate window by window, write frames as they become final."""
    from nuwa.generate.job import clean, prepare, run  # torch takes seconds to import; --help does not wait for it

    job = prepare(config)
    if job.is_done():
        clean(config)
        print(f"{config.output} is there already, made from the same weights and settings")
        return
    with generation_progress.shown() as on_progress:
        run(job, on_progress)
    print(f"{config.output}: {job.num_frames} frames, windows per level {job.record['windows']}")


if __name__ == "__main__":
    sys.exit(cli.run(main, GenerateConfig))
