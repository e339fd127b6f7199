"""Train the small space-time U-Net and its super-resolution that ship in demo/weights/lumiere.

    python -m demo.train_lumiere          (after demo.train_weights; about half an hour on one core)

An image U-Net, smaller than that of demo/weights/pipeline, learns from its latents and prompts; inflated, it learns
whole clips of the toon dataset; and, from the same footage at twice the size, to make small clips large.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from curation import profiles
from curation.config_json import to_json
from nuwa.hierarchy import NuwaError
from pipelines import cli
from pipelines.commands import must_run

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

CLIP_FRAMES = 40
"""Five seconds of the toon dataset, as a clip of the paper has."""
LARGE_FOOTAGE = "episode_000[0-3]*.mp4"
"""Episodes that super-resolution learns from."""
STAGES = (
    ("image", ("--steps", 1500, "--hop", 1)),
    ("stunet", ("--steps", 800, "--hop", 16, "--batch", 4, "--length", CLIP_FRAMES, "--first-frame-frac", 0.1)),
    ("ssr", ("--steps", 500, "--hop", 8, "--batch", 4, "--length", 8)),
)
"""Stage and its settings; the others are the defaults of preset toy."""


@dataclass(frozen=True, kw_only=True)
class TrainLumiere:
    """Train the small space-time U-Net and its super-resolution."""

    work: Path = Path("runs/weights")
    """Folder of demo.train_weights, with footage and dataset; run folders go below lumiere/ there."""
    pipeline: Path = Path("demo/weights/pipeline")
    """Whose autoencoder, text encoder and noise schedule are taken over."""
    output: Path = Path("demo/weights/lumiere")
    """Folder that receives the pipeline, in half precision."""
    threads: int = 1
    """CPU threads of the training."""


def main(config: TrainLumiere) -> None:
    """Run every step; steps whose result is there already do nothing."""
    folder, dataset = config.work / "lumiere", config.work / "dataset"
    if not (dataset / "config.json").is_file():
        raise NuwaError(f"there is no dataset {dataset}; run demo.train_weights first, or give its --work")
    start(config.pipeline, folder / "start")
    large = folder / "dataset"
    enlarge(config.work / "footage", large)
    init = folder / "start"
    for stage, settings in STAGES:
        words = ("--dataset", large if stage == "ssr" else dataset, "--output", folder / stage, "--init", init)
        must_run("pipelines.train", stage, *words, *settings, "--threads", config.threads, "--engine", "local")
        init = folder / stage / "model"
    ship(init, config.output)


def start(pipeline: Path, output: Path) -> None:
    """A pipeline with a new, small denoiser. NuwaError where one made of another pipeline is there."""
    import torch

    from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
    from nuwa.models.mtd import MaskTemporalUNet
    from nuwa.train.components import Sizes, image_unet
    from nuwa.train.stages import rebuilt

    pipe = load_pipeline(pipeline)
    if (output / "model_index.json").is_file():
        if not shares_parts(load_pipeline(output), pipe):
            raise NuwaError(
                f"{output} was begun from another pipeline than {pipeline}; give that one as --pipeline, or remove "
                f"{output.parent} to train anew"
            )
        return
    sizes = Sizes(
        vae_channels=tuple(pipe.vae.config.block_out_channels),
        vae_layers=pipe.vae.config.layers_per_block,
        unet_channels=(32, 64),
        attention=(True, True),
        unet_layers=1,
        heads=4,
        norm_groups=16,
    )
    torch.manual_seed(0)
    unet = image_unet(sizes, pipe.config.height // pipe.vae.downsample_factor, pipe.text_encoder.width)
    pipe.register_modules(denoiser_local=None)
    save_pipeline(rebuilt(pipe, denoiser_global=MaskTemporalUNet.from_unet(unet)), output)


def shares_parts(one: "NuwaXLPipeline", other: "NuwaXLPipeline") -> bool:
    """Whether autoencoder, text encoder and noise schedule, all that is taken over, are the same."""
    for mine, yours in ((one.vae, other.vae), (one.text_encoder, other.text_encoder)):
        weights, wanted = mine.state_dict(), yours.state_dict()
        if weights.keys() != wanted.keys() or not all(weights[name].equal(wanted[name]) for name in weights):
            return False
    schedules = [
        {name: value for name, value in pipe.scheduler.config.items() if name[0] != "_"} for pipe in (one, other)
    ]
    return schedules[0] == schedules[1]


def enlarge(footage: Path, output: Path) -> None:
    """Part of the footage curated once more, with runs of twice the size."""
    profile = profiles.demo()
    runs = replace(profile.runs, height=2 * profile.runs.height, width=2 * profile.runs.width)
    settings = output.with_suffix(".json")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(to_json(replace(profile, runs=runs)) + "\n", "utf-8")
    must_run("pipelines.curate", "--input", footage / LARGE_FOOTAGE, "--output", output, "--profile", settings)


def ship(model: Path, output: Path) -> None:
    """Copy the folder in half precision, half the size."""
    import torch

    from nuwa.generate.stunet_pipeline import load_stunet, save_stunet

    save_stunet(load_stunet(model), output, dtype=torch.float16)


if __name__ == "__main__":
    sys.exit(cli.run(main, TrainLumiere))
