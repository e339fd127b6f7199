"""Do windows show where they meet? Videos of held-out stories by the trained demo model beside the same stories drawn.

python -m benchmarks.seams [--stories 6] [--guidance 2] [--steps 20] [--quick]

Three bars hold together or not at all. Ratio: mean second difference in time at keyframes over the interior, frames
near a change of prompt left out; jitter everywhere lowers it. Jitter: the interior over that of the same story through
the autoencoder; blur lowers it. Sharpness: gradient energy, over that of the same story through the autoencoder, which
no generated frame can surpass by much.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.results import RESULTS, table, verdict, write_section
from demo import world
from demo.stories import Video, draw_frames, draw_story, reconstruct
from nuwa.evaluate.bootstrap import Bootstrap, Estimate, Floats, Indices, estimate
from nuwa.evaluate.seams import CHANGE_MARGIN, Seams, gradient_energy, jitter, pooled, seams
from nuwa.hierarchy import NuwaError
from pipelines import cli

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

RATIO_BAR = 1.5
JITTER_BAR = 1.5
"""Ours, as is the next: the issue asks only that blur cannot pass for calm, and jitter hides seams as blur does."""
SHARPNESS_BAR = 0.8
RESAMPLES = Bootstrap(draws=1000)


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
    guidance: tuple[float, ...] = (2.0,)
    """Classifier-free guidance scale: one number, or one per level, global first."""
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
    """One kind of video, story by story: seams of every level but the deepest, and mean sharpness (stories,)."""

    name: str
    seams: list[list[Seams]]
    sharpness: Floats

    def of(self, stories: Indices) -> list[Seams]:
        """Seams of some stories, possibly one of them several times, as if they were one video."""
        return pooled([self.seams[story] for story in stories])


def main(config: MeasureSeams) -> None:
    """Generate, measure, write the section."""
    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(config.model)
    count, frames = (1, 46) if config.quick else (config.stories, config.frames)
    if frames <= pipe.config.window_length:
        raise NuwaError(f"frames is {frames}, one window; give {pipe.config.window_length + 1} or more")
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
    """The story as footage at the model's size and frame rate."""
    return draw_frames(scenes, pipe.config.height, pipe.config.width, pipe.config.train_fps)


def generate(pipe: "NuwaXLPipeline", prompts: list[str], config: MeasureSeams, number: int) -> Video:
    """The video that the model makes of the story."""
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.windows import Sampling, WindowSampler, per_level

    sampling = Sampling(
        steps=2 if config.quick else config.steps,
        guidance=per_level(config.guidance),
        seed=config.seed + number,
        batch=config.batch,
        fps=pipe.config.train_fps,
    )
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    return np.stack(list(generate_frames(frame_plan(prompts, pipe.config.window_length), executor)))


def measure(name: str, videos: Sequence[tuple[Video, list[str]]], length: int) -> Measured:
    """All videos of one kind."""
    found = [seams(video, length, prompts=prompts) for video, prompts in videos]
    return Measured(name, found, np.array([gradient_energy(video).mean() for video, _ in videos]))


def over_stories(statistic: Callable[[Indices], float], stories: int) -> Estimate:
    """`statistic` of all stories with 95 % of its values when stories are drawn again with replacement.

    Frames of one story resemble each other, so drawing frames would make the interval too narrow.
    """
    return estimate(statistic, np.arange(stories), RESAMPLES, "seams")


def bars(through: Measured, generated: Measured) -> list[list[str]]:
    """What must hold together: each by itself can be passed by blur or by jitter."""

    def worst(stories: Indices) -> float:
        return float(np.max([seam.ratio for seam in generated.of(stories)]))  # NaN stays NaN, and misses

    def shaking(stories: Indices) -> float:
        return jitter(generated.of(stories)[0], through.of(stories)[0])

    def sharpness(stories: Indices) -> float:
        return float(generated.sharpness[stories].mean() / through.sharpness[stories].mean())

    wanted: list[tuple[str, Callable[[Indices], float], float, bool]] = [
        ("seams: keyframes over interior, worst level", worst, RATIO_BAR, True),
        ("jitter: interior over that of the autoencoder's", shaking, JITTER_BAR, True),
        ("sharpness over that of the autoencoder's", sharpness, SHARPNESS_BAR, False),
    ]
    rows = []
    for name, statistic, bar, at_most in wanted:
        found = over_stories(statistic, len(generated.seams))
        rows.append([name, verdict(found.value, bar, at_most), _interval(found)])
    return rows


def report(config: MeasureSeams, measured: Sequence[Measured]) -> list[str]:
    """Table and bars. measured: the drawn stories, the same through the autoencoder, the generated ones."""
    drawn, through, generated = measured
    head = ["", "level of keyframe", "keyframes", "second difference there", "in the interior", "ratio (95 %)"]
    scales = " and ".join(f"{scale:g}" for scale in config.guidance)
    guidance = f"{scales} (global, local)" if len(config.guidance) > 1 else scales
    return [
        f"{config.stories} held-out stories of {config.frames} frames, {config.steps} sampler steps, guidance "
        f"{guidance}. Second differences in grey levels of 255; frames within {CHANGE_MARGIN} of a change of prompt "
        "are left out. Intervals: stories drawn again with replacement. The bars of jitter and sharpness are ours.",
        "",
        *table([*head, "sharpness"], [row for kind in (drawn, through, generated) for row in _rows(kind)]),
        "",
        *table(["generated", "bar", "95 %"], bars(through, generated)),
    ]


def _rows(kind: Measured) -> list[list[str]]:
    """One row per level."""
    return [
        [
            kind.name,
            str(seam.level),
            f"{len(seam.keyframes)}",
            f"{255 * seam.keyframes.mean():.2f}",
            f"{255 * seam.interior.mean():.2f}",
            f"{seam.ratio:.2f} ({_interval(_ratio(kind, at))})",
            f"{kind.sharpness.mean():.4f}",
        ]
        for at, seam in enumerate(kind.of(np.arange(len(kind.seams))))
    ]


def _ratio(kind: Measured, at: int) -> Estimate:
    return over_stories(lambda stories: kind.of(stories)[at].ratio, len(kind.seams))


def _interval(found: Estimate) -> str:
    return "one story" if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureSeams))
