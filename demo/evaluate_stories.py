"""Does a generated video show its story? Generate held-out stories and read every frame and scene back with the probe.

    python -m demo.evaluate_stories --model demo/weights/pipeline --output runs/stories.json

Beside every figure stand its interval over stories, the same of the story drawn and of the drawn story through the
autoencoder (no generated video can be read better than that), the control (the same videos against the stories of the
others) and chance (what videos without any fault would reach there). Says which bars hold; missing one is no failure.

The frames of every finished story are kept as a PNG in a folder beside OUTPUT: the same command goes on after them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.progress import track

from demo import probe, stories, world
from demo.scene_probe import TOON, scenes_of
from nuwa.evaluate.bootstrap import Bootstrap, Estimate, Indices, estimate
from nuwa.evaluate.scene_figures import Judged, ReadVideo, Scores, agreement, judged, kept, returned
from nuwa.hierarchy import NuwaError
from pipelines import cli

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

OF_FRAMES = ("place", "colour", "shape")
KINDS = ("generated", "through the autoencoder", "drawn")
BOOTSTRAP = Bootstrap(draws=1000)


@dataclass(frozen=True, kw_only=True)
class EvaluateStories:
    """Generate held-out toon stories and measure how many frames and scenes show what their prompts say."""

    model: Path
    """Pipeline folder."""
    output: Path
    """JSON file for the figures; OUTPUT.png shows all stories, and a folder of that name keeps their frames."""
    stories: int = 32
    """How many stories, each a held-out episode with a prompt per frame."""
    frames: int = 226
    """Frames of each video."""
    steps: int = 20
    """Sampler steps per window."""
    guidance: tuple[float, ...] = (2.0,)
    """Classifier-free guidance scale: one number, or one per level, global first."""
    sampler: Literal["trained", "ddpm", "ddim", "dpm++", "unipc"] = "trained"
    """As in pipelines.generate."""
    motion_score: float | None = None
    """Mean optical flow to ask for, in frame heights per second; default not asked for."""
    batch: int = 15
    """Local windows sampled at once."""
    seed: int = 2_000_000
    """Seed of the stories; story i is sampled with seed + i."""
    psnr_bar: float = 27.0
    """Least PSNR of reconstruction in dB; 30 for weights that were trained on a GPU."""


@dataclass(frozen=True)
class Told:
    """One story: the scene of every frame, and what was read of its frames, by kind."""

    scenes: list[world.Scene]
    readings: dict[str, list[probe.Reading]]
    reconstruction: stories.Reconstruction
    """Of the story as footage."""
    of_drawings: stories.Reconstruction
    """Of its drawings, whose colours are sharper than those of any footage."""

    def read_video(self, kind: str, source: int) -> ReadVideo:
        """As the figures about scenes want it."""
        prompts = [scene.caption for scene in self.scenes]
        return ReadVideo(scenes_of(self.readings[kind], prompts), tuple(prompts), source)


@dataclass(frozen=True)
class Bar:
    """A figure that has to lie between `least` and `most`, where they are finite."""

    name: str
    found: Estimate
    least: float = float("-inf")
    most: float = float("inf")

    @property
    def wanted(self) -> str:
        """The bar in words; empty where there is none."""
        ends = (("≥", self.least), ("≤", self.most))
        return ", ".join(f"{sign} {end:g}" for sign, end in ends if np.isfinite(end))

    @property
    def holds(self) -> bool:
        return self.least <= self.found.value <= self.most


def main(config: EvaluateStories) -> None:
    """Make the stories that are missing, read them all, write and print the figures."""
    _check_config(config)
    from nuwa.generate.pipeline_folder import load_pipeline, weights_fingerprint

    folder = config.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    made_with = _made_with(config, weights_fingerprint(config.model))
    paths = [folder / f"story_{number:03d}.png" for number in range(config.stories)]
    _check_made(paths, made_with)
    pipe = load_pipeline(config.model)
    told, videos = list[Told](), list[stories.Video]()
    for number, path in enumerate(track(paths, "Stories")):
        scenes = stories.draw_story(config.seed + number, config.frames, pipe.config.train_fps)
        if (kept_video := stories.read_sheet(path)) is None:
            prompts = [scene.caption for scene in scenes]
            stories.write_sheet(path, film_story(pipe, prompts, config, config.seed + number), made_with)
            kept_video = stories.read_sheet(path)
            assert kept_video is not None
        videos.append(kept_video[0])
        told.append(tell(pipe, scenes, kept_video[0]))
    stories.write_strips(config.output.with_suffix(".png"), videos)
    figures = {**frame_figures(told), **scene_figures(told)}
    bars = bars_of(figures, told, config.psnr_bar)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    write_report(config.output, figures, bars, settings | made_with)
    print("\n".join(lines(figures, bars)))


def _check_config(config: EvaluateStories) -> None:
    """Raise NuwaError for settings that mean nothing; those of sampling are checked where they are used."""
    for name in ("stories", "frames"):
        if getattr(config, name) < 2:
            raise NuwaError(f"{name} is {getattr(config, name)}; give 2 or more")
    if config.output.suffix != ".json":
        raise NuwaError(f"output {config.output} is not the name of a .json file; give --output stories.json")


def _made_with(config: EvaluateStories, weights_sha256: str) -> dict[str, object]:
    names = ("frames", "steps", "sampler", "motion_score", "seed")
    made_with = {name: getattr(config, name) for name in names} | {"guidance": list(config.guidance)}
    return {"weights_sha256": weights_sha256} | made_with


def _check_made(paths: Sequence[Path], made_with: dict[str, object]) -> None:
    """Raise NuwaError for stories that are there and were made otherwise."""
    for path in paths:
        found = stories.read_sheet(path)
        if found is None:
            continue
        differ = [name for name in made_with if found[1].get(name) != made_with[name]]
        if differ:
            raise NuwaError(
                f"{path} was made with {differ[0]} {found[1].get(differ[0])!r}, not {made_with[differ[0]]!r}; give "
                f"another --output, or remove {path.parent} to make its stories anew"
            )


def film_story(pipe: "NuwaXLPipeline", prompts: list[str], config: EvaluateStories, seed: int) -> stories.Video:
    """Generate the video of one story."""
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.windows import Sampling, WindowSampler, per_level

    sampling = Sampling(
        steps=config.steps,
        guidance=per_level(config.guidance),
        sampler=config.sampler,
        motion_score=config.motion_score,
        seed=seed,
        batch=config.batch,
        fps=pipe.config.train_fps,
    )
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    return np.stack(list(generate_frames(frame_plan(prompts, pipe.config.window_length), executor)))


def tell(pipe: "NuwaXLPipeline", scenes: list[world.Scene], video: stories.Video) -> Told:
    """Read a generated video, the same story drawn, and that through the autoencoder."""
    drawn = stories.draw_frames(scenes, pipe.config.height, pipe.config.width, pipe.config.train_fps)
    shown = dict(zip(KINDS, (video, stories.reconstruct(pipe, drawn), drawn), strict=True))
    readings = {kind: [probe.read_frame(frame) for frame in frames] for kind, frames in shown.items()}
    footage = stories.filmed(drawn, pipe.config.train_fps)
    return Told(scenes, readings, stories.measure_autoencoder(pipe, footage), stories.measure_autoencoder(pipe, drawn))


def frame_scores(readings: Sequence[Sequence[probe.Reading]], told: Sequence[Told], measure: str) -> Scores:
    """Share of frames whose reading agrees with the story, per story; a frame without a hero agrees in place only."""
    shown = np.array([[str(getattr(reading, measure)) for reading in of_video] for of_video in readings])
    wanted = np.array([[getattr(scene, measure) for scene in story.scenes] for story in told])
    control = (shown[:, None] == wanted[None]).mean(axis=2)
    chance = (wanted[:, None] == wanted[None]).mean(axis=2)
    others = ~np.eye(len(told), dtype=bool)

    def of_others(shares: np.ndarray) -> np.ndarray:
        return np.asarray(shares[others].reshape(len(told), -1).mean(axis=1))

    return Scores(own=np.diagonal(control).copy(), control=of_others(control), chance=of_others(chance))


def frame_figures(told: Sequence[Told]) -> dict[str, dict[str, Judged]]:
    """Figure → kind → share of frames."""

    def one(measure: str, kind: str) -> Judged:
        scores = frame_scores([story.readings[kind] for story in told], told, measure)
        videos = [story.read_video(kind, number) for number, story in enumerate(told)]
        return judged(scores, videos, BOOTSTRAP, f"{measure} of frames")

    return {f"{measure}, frames": {kind: one(measure, kind) for kind in KINDS} for measure in OF_FRAMES}


def scene_figures(told: Sequence[Told]) -> dict[str, dict[str, Judged]]:
    """Figure → kind → share of scenes."""
    scores: dict[str, Callable[[list[ReadVideo]], Scores]] = {
        f"{name}, scenes": lambda videos, name=name, words=words: agreement(videos, name, words)  # type: ignore[misc]
        for name, words in TOON.choices.items()
    }
    scores["hero kept, scenes"] = lambda videos: kept(videos, TOON.kept["hero_kept"], TOON)
    scores["place returned to, scenes"] = lambda videos: returned(videos, "place", TOON.choices["place"])
    read = {kind: [story.read_video(kind, number) for number, story in enumerate(told)] for kind in KINDS}
    return {
        name: {kind: judged(score(videos), videos, BOOTSTRAP, name) for kind, videos in read.items()}
        for name, score in scores.items()
    }


def bars_of(figures: dict[str, dict[str, Judged]], told: Sequence[Told], psnr_bar: float) -> list[Bar]:
    """Place and colour by the frame, which is harder than by the scene; the autoencoder on windows of every stride.

    Its PSNR on drawings stands without a bar: their colours are sharper than H.264 lets those of any footage be.
    """
    sources = np.arange(len(told))
    parts, drawings = [story.reconstruction for story in told], [story.of_drawings for story in told]

    def deviation(chosen: Indices) -> float:
        mean, square = (np.mean([getattr(parts[i], name) for i in chosen]) for name in ("latent_mean", "latent_square"))
        return float(np.sqrt(square - mean**2))

    def psnr(stride: int, of: Sequence[stories.Reconstruction]) -> Estimate:
        errors = np.array([part.squared_errors[stride] for part in of])
        return estimate(lambda chosen: -10.0 * float(np.log10(errors[chosen].mean())), sources, BOOTSTRAP, "psnr")

    shares = (("place, frames", 0.95), ("colour, frames", 0.95), ("action, scenes", 0.70), ("hero kept, scenes", 0.90))
    return [
        *(Bar(name, figures[name]["generated"].value, least) for name, least in shares),
        *(Bar(f"PSNR, windows of stride {s}, dB", psnr(s, parts), psnr_bar) for s in parts[0].squared_errors),
        *(Bar(f"· of drawings, stride {s}, dB", psnr(s, drawings)) for s in drawings[0].squared_errors),
        Bar("deviation of scaled latents", estimate(deviation, sources, BOOTSTRAP, "latents"), 0.9, 1.1),
    ]


def write_report(
    path: Path, figures: dict[str, dict[str, Judged]], bars: Sequence[Bar], settings: dict[str, object]
) -> None:
    """All figures as JSON, complete or not at all."""
    found = {name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in figures.items()}
    rows = [
        {"name": bar.name, **asdict(bar.found)}
        | {name: end for name, end in (("least", bar.least), ("most", bar.most)) if np.isfinite(end)}
        | ({"holds": bar.holds} if bar.wanted else {})
        for bar in bars
    ]
    draft = path.with_name(f"_{path.name}")
    draft.write_text(json.dumps({"bars": rows, "figures": found, "settings": settings}, indent=1) + "\n", "utf-8")
    draft.replace(path)


def lines(figures: dict[str, dict[str, Judged]], bars: Sequence[Bar]) -> list[str]:
    """A row per figure, then a row per bar."""
    head = f"{'':26} {'generated':22} {'autoencoder':>11} {'drawn':>6} {'control':>7} {'chance':>6}"
    rows = []
    for name, kinds in figures.items():
        made = kinds["generated"]
        beside = [kinds[kind].value.value for kind in KINDS[1:]]
        ends = [float("nan") if one is None else one.value for one in (made.control, made.chance)]
        rows.append(
            f"{name:26} {_text(made.value):22} {beside[0]:11.3f} {beside[1]:6.3f} {ends[0]:7.3f} {ends[1]:6.3f}"
        )
    return [head, *rows, "", *(_bar_line(bar) for bar in bars)]


def _bar_line(bar: Bar) -> str:
    verdict = "holds" if bar.holds else "MISSED"
    return f"{bar.name:30} {_text(bar.found):24} {bar.wanted:14} {verdict if bar.wanted else ''}".rstrip()


def _text(found: Estimate) -> str:
    interval = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}{interval}"


if __name__ == "__main__":
    sys.exit(cli.run(main, EvaluateStories))
