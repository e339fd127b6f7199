"""Generate a video: a long one from a story by NUWA-XL, or a clip in one pass by a space-time U-Net.

The same command again says that it is done, goes on from the finished windows of an interrupted one, or says what
differs from what is there.
"""

import sys

from nuwa.generate.config import GenerateConfig
from pipelines import cli, generation_progress


def main(config: GenerateConfig) -> None:
    """Check everything, then make what the folder of the model is for, and write frames as they become final."""
    from nuwa.generate.pipeline_folder import stored_class  # torch takes seconds to import; --help does not wait for it

    if stored_class(config.model) == "StunetPipeline":
        _make_clip(config)
    else:
        _make_video(config)


def _make_video(config: GenerateConfig) -> None:
    """Window by window."""
    from nuwa.generate.job import clean, prepare, run

    job = prepare(config)
    if job.is_done():
        clean(config)
        print(f"{config.output} is there already, made from the same weights and settings")
        return
    with generation_progress.shown() as on_progress:
        run(job, on_progress)
    print(f"{config.output}: {job.num_frames} frames, windows per level {job.record['windows']}")


def _make_clip(config: GenerateConfig) -> None:
    """In one pass."""
    from nuwa.generate.clip_job import prepare, run
    from nuwa.generate.job import clean

    job = prepare(config)
    if job.is_done():
        clean(config)
        print(f"{config.output} is there already, made from the same weights and settings")
        return
    with generation_progress.shown() as on_progress:
        made = run(job, on_progress)
    print(made)


if __name__ == "__main__":
    sys.exit(cli.run(main, GenerateConfig))
