"""Is it better to train on long videos? Diffusion over diffusion against autoregression by a network of short windows.

python -m benchmarks.long_against_short [--quick]

Same network, image weights, data and optimiser steps. The one arm learns windows of both strides, 15 and 1, and makes a
video of 226 frames by diffusion over diffusion; the other learns windows of neighbouring frames only, of which none,
the first or the first few are given, and makes it window after window, o = 1 or 8 (nuwa/generate/autoregressive.py).
Prompts say action and place but not who: whether the hero stays is up to the windows. Writes its section of
benchmarks/RESULTS.md; killed and given again, it goes on.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks import arms
from benchmarks.arms import Values
from benchmarks.long_short_report import Compared, plot, report
from benchmarks.results import RESULTS, write_section
from benchmarks.silent_toons import FPS, SIZE_PX, draw_episode, silent_prompt, write_episodes
from demo import probe, stories, world
from demo.scene_probe import TOON, scenes_of
from nuwa.evaluate.bootstrap import Floats
from nuwa.evaluate.scene_figures import ReadVideo, agreement, kept, returned
from nuwa.hierarchy import NuwaError
from pipelines import cli

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline
    from nuwa.generate.windows import WindowSampler
    from nuwa.train.config import TrainConfig

LONG, DRAWN = "trained on long, diffusion over diffusion", "drawn"
OVERLAPS = (1, 8)
SHORT = {f"trained on short, autoregression, o = {overlap}": overlap for overlap in OVERLAPS}
Kind = Literal["long", "short"]
POSITIONS = 15
"""Frames of each video whose quality is judged, in the middle of as many blocks."""
SPANS = 5
"""Parts of a video in the plot of kept heroes."""


@dataclass(frozen=True, kw_only=True)
class MeasureLong:
    """Train both arms, make the same stories with them, and compare."""

    init: Path = Path("demo/weights/pipeline")
    """Pipeline folder whose autoencoder and image weights both arms start from; its temporal layers, condition and mask
    are put back to where they begin."""
    work: Path = Path("runs/benchmarks/long-against-short")
    """Folder for data, arms and videos; what is there is not made again."""
    episodes: int = 32
    """Training episodes."""
    episode_frames: int = 320
    """Frames of each, at 8 fps; a window of stride 15 spans 226."""
    frames: int = 226
    """Frames of the stories."""
    stories: int = 10
    """Stories per training seed."""
    steps: int = 350
    """Optimiser steps of each arm."""
    batch: int = 8
    """Windows per step."""
    temporal_lr_factor: float = 5.0
    """As in benchmarks.injection."""
    sampler_steps: int = 8
    """Per window."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is none and takes half the time."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings; every seed is a pair of arms with stories of its own."""
    threads: int = 1
    """CPU threads."""
    quick: bool = False
    """Two steps, two stories of 31 frames; prints and writes nothing."""
    results: Path = RESULTS
    """File whose section is replaced; the plot goes into figures/ beside it."""


def main(config: MeasureLong) -> None:
    """Train, generate, read, compare; write the section."""
    import torch

    _check(config)
    torch.set_num_threads(config.threads)
    if config.quick:
        config = dataclasses.replace(
            config,
            work=config.work / "quick",
            seeds=config.seeds[:1],
            episodes=2,
            steps=2,
            batch=2,
            stories=2,
            frames=31,
            sampler_steps=1,
        )
    arms.claim(
        config.work, {name: value for name, value in vars(config).items() if name not in ("work", "results", "threads")}
    )
    found = {arm: gathered(config, arm) for arm in (LONG, *SHORT, DRAWN)}
    compared = Compared(found, LONG, tuple(SHORT), DRAWN, config.frames / FPS)
    lines = [*about(config), "", *report(compared)]
    if not config.quick:
        lines += ["", plot(compared, config.results)]
        command = shlex.join(["python", "-m", "benchmarks.long_against_short", *sys.argv[1:]])
        write_section("long-against-short", "Trained on long against trained on short", command, lines, config.results)
    print("\n".join(lines))


def _check(config: MeasureLong) -> None:
    """Raise NuwaError for settings that mean nothing; those of the training are checked by it."""
    least = {"episodes": 1, "stories": 2, "sampler_steps": 1, "threads": 1, "frames": 31, "episode_frames": 226}
    for name, fewest in least.items():
        if getattr(config, name) < fewest:
            raise NuwaError(f"{name} is {getattr(config, name)}; give {fewest} or more")
    if not config.seeds:
        raise NuwaError("there are no seeds; give one or more")


def start_folder(config: MeasureLong) -> Path:
    """The pipeline that both arms start from: image weights, temporal layers that do nothing yet."""
    from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
    from nuwa.models.mtd import MaskTemporalUNet
    from nuwa.train.stages import rebuilt

    folder = config.work / "start"
    if not folder.is_dir():
        pipe = load_pipeline(config.init)
        trained = pipe.denoiser_global
        sizes = (trained.config.condition_channels, trained.config.mask_channels, trained.config.temporal_kernel)
        fresh = MaskTemporalUNet.from_unet(trained.image_unet(), *sizes)
        save_pipeline(rebuilt(pipe, denoiser_global=fresh, denoiser_local=fresh), folder)
    return folder


def training_of(config: MeasureLong, kind: Kind, seed: int) -> "TrainConfig":
    """Long: windows of both strides in turn, nothing given at stride 15 and the ends at stride 1. Short: stride 1 only,
    with nothing, the first or the first few frames given, as autoregression has it.
    """
    from nuwa.train.config import TrainConfig

    data = write_episodes(config.work / "dataset", config.episodes, config.episode_frames, seed=8_000_000)
    return TrainConfig(
        stage="mtd",
        dataset=data,
        init=start_folder(config),
        output=config.work / f"{kind}-{seed}",
        depth=2 if kind == "long" else 1,
        global_mask_frac=0.0,
        first_frame_frac=0.0 if kind == "long" else 0.3,
        prediction_frac=0.0 if kind == "long" else 0.4,
        infilling_frac=0.0,
        condition="latents",
        hop=8,
        steps=config.steps,
        batch=config.batch,
        warmup=min(20, config.steps),
        temporal_lr_factor=config.temporal_lr_factor,
        log_every=10,
        checkpoint_every=100,
        threads=config.threads,
        seed=seed,
        engine="local",
    )


@lru_cache(1)
def trained(config: MeasureLong, kind: Kind, seed: int) -> "NuwaXLPipeline":
    """The pipeline of an arm, which is trained first if it is not."""
    from nuwa.generate.pipeline_folder import load_pipeline

    return load_pipeline(arms.train_to(training_of(config, kind, seed), config.steps))


def gathered(config: MeasureLong, arm: str) -> Values:
    """What was measured of all stories of an arm, in one axis; each is kept when it is made."""
    short = {LONG: "long", DRAWN: "drawn"}.get(arm, f"short-o{SHORT.get(arm)}")
    made = [
        arms.remembered(
            config.work / "stories" / f"{short}-{seed}-{number:02d}.json", partial(measured, config, arm, seed, number)
        )
        for seed in config.seeds
        for number in range(config.stories)
    ]
    return {name: np.stack([one[name].squeeze() for one in made]) for name in made[0]}


def story_of(config: MeasureLong, arm: str, seed: int, number: int) -> list[world.Scene]:
    """The scenes of a story; all arms make the same ones, the drawn ones that quality is measured by are others."""
    offset = 9_500_000 if arm == DRAWN else 9_000_000
    return draw_episode(offset + 1000 * seed + number, config.frames)


def measured(config: MeasureLong, arm: str, seed: int, number: int) -> Values:
    """Make one story, keep its frames as a picture, and read it."""
    scenes = story_of(config, arm, seed, number)
    if arm == DRAWN:
        return judged(stories.draw_frames(scenes, SIZE_PX, SIZE_PX, FPS), scenes)
    pipe = trained(config, "long" if arm == LONG else "short", seed)
    video = film(config, pipe, [silent_prompt(scene) for scene in scenes], SHORT.get(arm), 1000 * seed + number)
    name = "long" if arm == LONG else f"short-o{SHORT[arm]}"
    stories.write_sheet(config.work / "stories" / f"{name}-{seed}-{number:02d}.png", video, {"frames": len(video)})
    return judged(video, scenes)


def film(
    config: MeasureLong, pipe: "NuwaXLPipeline", prompts: list[str], overlap: int | None, seed: int
) -> stories.Video:
    """A video by autoregression with `overlap`, or by diffusion over diffusion without."""
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.windows import Sampling, WindowSampler

    sampling = Sampling(
        steps=config.sampler_steps,
        guidance=config.guidance,
        seed=seed,
        batch=1 if overlap is not None else 8,
        fps=FPS,
        condition="latents",
    )
    sampler = WindowSampler(pipe, sampling)
    length = pipe.config.window_length
    if overlap is not None:
        return _autoregressive(sampler, prompts, length, overlap)
    return np.stack(list(generate_frames(frame_plan(prompts, length), LocalExecutor(sampler))))


def _autoregressive(sampler: "WindowSampler", prompts: list[str], length: int, overlap: int) -> stories.Video:
    """Window after window, the whole then decoded like any other video."""
    import torch

    from nuwa.generate.autoregressive import autoregressive
    from nuwa.generate.streaming_decode import decode_frames

    latents = torch.cat([result.latents for result in autoregressive(sampler, prompts, length, overlap)], dim=1)
    return np.stack(list(decode_frames(sampler.decode, latents, length)))


def judged(video: stories.Video, scenes: Sequence[world.Scene]) -> Values:
    """What is kept of a video (n h w 3): features of frames, and whether hero, places and prompts are in its scenes."""
    prompts = [scene.caption for scene in scenes]  # only to compare with; generation saw none of it
    readings = [probe.read_frame(frame) for frame in video]
    read = ReadVideo(scenes_of(readings, prompts), tuple(prompts))
    found = {
        "hero kept": kept([read], ("colour", "shape"), TOON).own,
        "colour kept": kept([read], ("colour",), TOON).own,
        "places returned to": returned([read], "place", TOON.choices["place"]).own,
        "place right": agreement([read], "place", TOON.choices["place"]).own,
        "action right": agreement([read], "action", TOON.choices["action"]).own,
        "hero seen": np.array([np.mean([reading.colour is not None for reading in readings])]),
    }
    return found | {"colour at": _kept_along(readings), "features": _features(video)}


def _kept_along(readings: Sequence[probe.Reading]) -> Floats:
    """Share of frames in each of `SPANS` parts that show the colour of the first second, (SPANS,)."""
    colours = [reading.colour for reading in readings]
    known = [colour for colour in colours[: int(FPS)] if colour is not None]
    first = max(known, key=known.count, default=None)
    same = np.array([colour is not None and colour == first for colour in colours], np.float64)
    return np.array([part.mean() for part in np.array_split(same, SPANS)])


def _features(video: stories.Video) -> Floats:
    """Embeddings (p d) by the demo's CoCa of the frames in the middle of `POSITIONS` blocks."""
    import torch

    from nuwa.evaluate.clip_model import OpenClipModel, ToyImageFeatures
    from nuwa.evaluate.config import DEMO_CLIP

    at = (np.arange(POSITIONS) + 0.5) * len(video) / POSITIONS
    images = torch.from_numpy(video[at.astype(int)]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return ToyImageFeatures(OpenClipModel.from_folder(DEMO_CLIP))(images).double().numpy()


def about(config: MeasureLong) -> list[str]:
    """What was measured and how."""
    seeds, count = ", ".join(map(str, config.seeds)), len(config.seeds) * config.stories
    return [
        f"{config.steps} steps of {config.batch} windows each, from the image weights and the autoencoder of "
        f"`{config.init}`, temporal layers new; {config.episodes} toon episodes of {config.episode_frames} frames, "
        f"whose prompts leave out the hero; training seeds {seeds}. {count} stories of {config.frames} frames, "
        f"{config.sampler_steps} sampler steps, guidance {config.guidance:g}. Kept: share of scenes with the colour "
        "and shape of the first scene; returned to: share of returns that show the place of the first visit. Toy KID: "
        "to frames of other drawn stories, by embeddings of the demo's CoCa. Intervals: 95 %, stories drawn again with "
        "replacement; they do not cover other trainings.",
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureLong))
