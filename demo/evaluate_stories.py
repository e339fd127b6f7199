"""Does a generated video show its story? Generate held-out stories and read every frame back with the probe.

    python -m demo.evaluate_stories --model demo/weights/pipeline --output runs/stories.json

The control reads the same videos against the prompts of the other stories: figures must fall to chance there, which
is what videos without any fault would reach against those prompts.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from demo import probe, world
from pipelines import cli

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

MEASURES = ("colour", "place", "shape")


@dataclass(frozen=True, kw_only=True)
class EvaluateStories:
    """Generate held-out toon stories and measure how many frames show what their prompt says."""

    model: Path
    """Pipeline folder."""
    output: Path
    """JSON file for the figures; one video strip per story is kept beside it as PNG."""
    stories: int = 16
    """How many stories, each a held-out episode with a prompt per frame."""
    frames: int = 226
    """Frames of each video."""
    steps: int = 20
    """Sampler steps per window."""
    guidance: float = 4.0
    """Classifier-free guidance scale."""
    batch: int = 8
    """Local windows sampled at once."""
    seed: int = 2_000_000
    """Seed of the stories; story i is sampled with seed + i."""


def draw_story(seed: int, num_frames: int, fps: float) -> list[world.Scene]:
    """The clean scene that every frame of a held-out episode should show."""
    rng = np.random.default_rng(seed)
    hero, scenes = world.random_hero(rng, True), list[world.Scene]()
    while len(scenes) < num_frames:
        last = scenes[-1].place if scenes else ""
        scene = world.random_scene(rng, hero, True, last, clean=True)
        scenes += [scene] * round(scene.duration_s * fps)
    return scenes[:num_frames]


def film_story(pipe: "NuwaXLPipeline", prompts: list[str], config: EvaluateStories, seed: int) -> list[np.ndarray]:
    """Generate the video of one story → frames (h w 3) uint8."""
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.windows import Sampling, WindowSampler

    sampling = Sampling(
        steps=config.steps, guidance=config.guidance, seed=seed, batch=config.batch, fps=pipe.config.train_fps
    )
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    return list(generate_frames(frame_plan(prompts, pipe.config.window_length), executor))


def agreement(readings: Sequence[probe.Reading | world.Scene], scenes: list[world.Scene]) -> dict[str, float]:
    """Share of frames whose reading agrees with the scene, per measure; a frame without a hero agrees in place only."""
    return {
        measure: float(
            np.mean([getattr(r, measure) == getattr(s, measure) for r, s in zip(readings, scenes, strict=True)])
        )
        for measure in MEASURES
    }


def mean_over(rows: list[dict[str, float]]) -> dict[str, float]:
    return {measure: float(np.mean([row[measure] for row in rows])) for measure in MEASURES}


def main(config: EvaluateStories) -> None:
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(config.model)
    stories = [draw_story(config.seed + i, config.frames, pipe.config.train_fps) for i in range(config.stories)]
    readings = []
    config.output.parent.mkdir(parents=True, exist_ok=True)
    for i, story in enumerate(track(stories, "Stories")):
        video = film_story(pipe, [scene.caption for scene in story], config, config.seed + i)
        write_strip(config.output.with_name(f"{config.output.stem}_{i:02d}.png"), video)
        readings.append([probe.read_frame(frame) for frame in video])
    own = [agreement(r, s) for r, s in zip(readings, stories, strict=True)]
    others = [agreement(r, s) for i, r in enumerate(readings) for j, s in enumerate(stories) if i != j]
    chance = [agreement(s, t) for i, s in enumerate(stories) for j, t in enumerate(stories) if i != j]
    figures = {
        "own prompts": mean_over(own),
        "prompts of other stories": mean_over(others),
        "chance": mean_over(chance),
    }
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    config.output.write_text(json.dumps({**figures, "each story": own, "settings": settings}, indent=2) + "\n")
    for name, row in figures.items():
        print(f"{name:26}", "  ".join(f"{measure} {row[measure]:.3f}" for measure in MEASURES))


def write_strip(path: Path, video: list[np.ndarray], columns: int = 16) -> None:
    """Every (n / columns)-th frame side by side."""
    import cv2

    chosen = [video[round(at)] for at in np.linspace(0, len(video) - 1, columns)]
    cv2.imwrite(str(path), np.hstack(chosen)[..., ::-1])


if __name__ == "__main__":
    sys.exit(cli.run(main, EvaluateStories))
