"""Train one stage on a curated dataset: image-vae, image, vae, mtd, in this order, or after vae stunet and ssr.

Each stage leaves a complete pipeline folder in OUTPUT/model, which is the next stage's --init. The same command
run again resumes; a finished run does nothing.
"""

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from nuwa.train.config import TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.run_folder import check_output, finished
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    stage: Positional[str]
    """What to train: image-vae, image, vae, mtd, in this order; each one's OUTPUT/model is the next one's --init. Or,
    from that of vae, stunet and ssr: clips in one pass, and what makes them larger."""


def main(config: Train) -> None:
    """Check the settings, then run the loop on Ray Train or, with --engine local, in this process."""
    settings = TrainConfig(**vars(resolve(config)))
    check_output(settings)
    if finished(settings):
        print(f"{settings.output} is finished: {settings.steps} steps; its model is {settings.output / 'model'}")
        return
    if settings.engine == "local":
        from nuwa.train.loop import train

        train(settings)
    else:
        from nuwa.train.ray_trainer import fit

        fit(settings)
    print(f"model: {settings.output / 'model'}")


def whole_config(config: Train) -> dict[str, object]:
    """The settings with the defaults of the stage filled in."""
    return vars(resolve(config))


if __name__ == "__main__":
    sys.exit(cli.run(main, Train, whole=whole_config))
