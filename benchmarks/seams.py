"""Do windows show where they meet? Videos of held-out stories by the trained demo model beside the same stories drawn.

python -m benchmarks.seams [--stories 6] [--guidance 4] [--steps 20] [--quick]

Ratio: mean second difference in time at keyframes over the interior, frames near a change of prompt left out.
Sharpness: gradient energy, beside that of the drawn story and of the same story through the autoencoder, which no
generated frame can surpass by much.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.results import RESULTS, table, verdict, write_section
from demo import world
from demo.evaluate_stories import draw_story
from nuwa.evaluate.seams import Seams, gradient_energy, pooled, seams
from nuwa.hierarchy import NuwaError
from pipelines import cli

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

Video = NDArray[np.uint8]
BAR = 1.5
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class MeasureSeams:
    """Generate held-out stories and measure what shows where windows meet."""

    model: Path = Path("demo/weights/pipeline")
    """Pipeline folder."""
    stories: int = 6
    """How many stories, about half a minute each on two cores."""
    frames: int = 226
    """Frames of each."""
    steps: int = 20
    """Sampler steps per window."""
    guidance: float = 4.0
    """Classifier-free guidance scale."""
    batch: int = 15
    """Local windows at once."""
    seed: int = 2_000_000
    """Seed of the first story."""
    quick: bool = False
    """One story of 46 frames, 2 steps; prints and writes nothing."""
    results: Path = RESULTS
    """File whose section is replaced."""

    def __post_init__(self) -> None:
        if self.stories < 1:
            raise NuwaError(f"stories is {self.stories}; give 1 or more")


@dataclass(frozen=True)
class Measured:
    """Seams and sharpness of one kind of video."""

    name: str
    seams: list[Seams]
    sharpness: float


def main(config: MeasureSeams) -> None:
    """Generate, measure, write the section."""
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(config.model)
    count, frames = (1, 46) if config.quick else (config.stories, config.frames)
    made: dict[str, list[tuple[Video, list[str]]]] = {}
    for number in range(count):
        scenes = draw_story(config.seed + number, frames, pipe.config.train_fps)
        prompts = [scene.caption for scene in scenes]
        drawn = draw(scenes, pipe)
        made.setdefault("the story, drawn", []).append((drawn, prompts))
        made.setdefault("· through the autoencoder", []).append((reconstruct(pipe, drawn), prompts))
        made.setdefault("generated", []).append((generate(pipe, prompts, config, number), prompts))
        print(f"story {number + 1} of {count}", file=sys.stderr, flush=True)
    length = pipe.config.window_length
    lines = report(config, [measure(name, videos, length) for name, videos in made.items()])
    if not config.quick:
        command = shlex.join(["python", "-m", "benchmarks.seams", *sys.argv[1:]])
        write_section("seams", "Seams", command, lines, config.results)
    print("\n".join(lines))


def draw(scenes: Sequence[world.Scene], pipe: "NuwaXLPipeline") -> Video:
    """The story as footage at the model's size (n h w 3), uint8: drawn large, shrunk like training footage."""
    size, fps = (pipe.config.width, pipe.config.height), pipe.config.train_fps
    images = [
        cv2.resize(world.draw_scene(scene, frame / fps, 128, 128), size, interpolation=cv2.INTER_AREA)
        for _, shot in groupby(scenes, key=id)
        for frame, scene in enumerate(shot)
    ]
    return np.stack(images)


def reconstruct(pipe: "NuwaXLPipeline", video: Video) -> Video:
    """The video encoded window by window at stride 1 and decoded like a generated one."""
    import torch

    from nuwa.generate.streaming_decode import decode_frames
    from nuwa.generate.windows import Sampling, WindowSampler

    length, scale = pipe.config.window_length, pipe.vae.config.scaling_factor
    pixels = torch.from_numpy(video).permute(3, 0, 1, 2) / 127.5 - 1  # 3 n H W
    latents = []
    with torch.no_grad():
        for start in range(0, len(video) - 1, length - 1):
            window = pipe.vae.encode(pixels[None, :, start : start + length]).mode()[0] * scale  # c l h w
            latents.append(window[:, bool(start) :])
    decode = WindowSampler(pipe, Sampling()).decode
    return np.stack(list(decode_frames(decode, torch.cat(latents, dim=1), length)))


def generate(pipe: "NuwaXLPipeline", prompts: list[str], config: MeasureSeams, number: int) -> Video:
    """The video that the model makes of the story."""
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.windows import Sampling, WindowSampler

    sampling = Sampling(
        steps=2 if config.quick else config.steps,
        guidance=config.guidance,
        seed=config.seed + number,
        batch=config.batch,
        fps=pipe.config.train_fps,
    )
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    return np.stack(list(generate_frames(frame_plan(prompts, pipe.config.window_length), executor)))


def measure(name: str, videos: Sequence[tuple[Video, list[str]]], length: int) -> Measured:
    """All videos of one kind together."""
    found = pooled([seams(video, length, prompts=prompts) for video, prompts in videos])
    return Measured(name, found, float(np.mean([gradient_energy(video).mean() for video, _ in videos])))


def interval(seam: Seams) -> tuple[float, float]:
    """95 % of the ratios when frames are drawn again with replacement."""
    draws = np.random.default_rng(0)
    again = [
        Seams(seam.level, draws.choice(seam.keyframes, len(seam.keyframes)), draws.choice(seam.interior, 500)).ratio
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(again, [2.5, 97.5])
    return float(low), float(high)


def report(config: MeasureSeams, measured: Sequence[Measured]) -> list[str]:
    """Table and bars."""
    rows = []
    for kind in measured:
        for seam in kind.seams:
            low, high = interval(seam)
            rows.append(
                [
                    kind.name,
                    str(seam.level),
                    f"{len(seam.keyframes)}",
                    f"{255 * seam.keyframes.mean():.2f}",
                    f"{255 * seam.interior.mean():.2f}",
                    f"{seam.ratio:.2f} ({low:.2f} to {high:.2f})",
                    f"{kind.sharpness:.4f}",
                ]
            )
    drawn, through, generated = measured
    worst = max(seam.ratio for seam in generated.seams)
    head = ["", "level of keyframe", "keyframes", "second difference there", "in the interior", "ratio (95 %)"]
    return [
        f"{config.stories} held-out stories of {config.frames} frames, {config.steps} sampler steps, guidance "
        f"{config.guidance:g}. Second differences in grey levels of 255; frames within 4 of a change of prompt are "
        "left out.",
        "",
        *table([*head, "sharpness"], rows),
        "",
        f"- ratio at keyframes: {verdict(worst, BAR, at_most=True)}",
        f"- sharpness over that of the drawn story: {generated.sharpness / drawn.sharpness:.2f}, over what passes the "
        f"autoencoder: {generated.sharpness / through.sharpness:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureSeams))
