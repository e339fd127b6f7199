"""Generate a long video from a story of prompts."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nuwa.hierarchy import NuwaError, plan
from pipelines import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from nuwa.generate.pipeline import NuwaXLPipeline
    from nuwa.generate.windows import Sampling


@dataclass(frozen=True, kw_only=True)
class Generate:
    model: Path
    """Pipeline folder: the `model` of a training run."""
    story: Path
    """YAML: `fps: 8` and `scenes:`, a list of `{prompt: text, seconds: number}`."""
    output: Path
    """The mp4 to write; all that is needed to repeat it goes into the .json beside it."""
    frames: int | None = None
    """Length of the video in frames; crops the story or extends its last prompt. Default: the story."""
    depth: int | None = None
    """Levels, the global one included. Default: the fewest that reach the length."""
    steps: int = 20
    """Sampler steps per window."""
    guidance: float = 4.0
    """Classifier-free guidance scale; 1 is none."""
    seed: int = 0
    batch: int = 8
    """Local windows sampled at once; results are bitwise equal at one batch size, not across them."""
    fps: float | None = None
    """Frames per second. Default: the story's, else the model's."""
    upscale: int = 1
    """Repeat every pixel this often in both directions: small frames keep their colours in yuv420p."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or auto: cuda if there is one."""


def main(config: Generate) -> None:
    """Load, generate window by window under a progress bar, decode into the file."""
    if config.output.suffix != ".mp4":
        raise NuwaError(f"output {config.output} does not end in .mp4; H.264 in mp4 is the one format written")
    from nuwa.generate.story import frame_prompts, load_story

    story = load_story(config.story)
    from nuwa.generate.mp4 import check_size, write_mp4
    from nuwa.generate.pipeline import pick_device
    from nuwa.generate.pipeline_folder import load_pipeline
    from nuwa.generate.record import describe, is_done, write_record
    from nuwa.generate.windows import Sampling

    pipe = load_pipeline(config.model).to(pick_device(config.device))
    fps = next(rate for rate in (config.fps, story.fps, pipe.config.train_fps) if rate is not None)
    sampling = Sampling(steps=config.steps, guidance=config.guidance, seed=config.seed, batch=config.batch, fps=fps)
    check_size(pipe.config.height, pipe.config.width, config.upscale)
    prompts = frame_prompts(story, fps, config.frames)
    record = describe(
        pipe=pipe,
        model=config.model,
        story=asdict(story),
        prompts=prompts,
        sampling=sampling,
        depth=config.depth,
        upscale=config.upscale,
    )
    if is_done(config.output, record):
        print(f"{config.output} is there already, made from the same weights and settings")
        return
    write_record(config.output, record)
    write_mp4(config.output, _images(pipe, prompts, sampling, config.depth), fps, config.upscale)
    print(f"{config.output}: {len(prompts)} frames, windows per level {record['windows']}")


def _images(
    pipe: "NuwaXLPipeline", prompts: list[str], sampling: "Sampling", depth: int | None
) -> "Iterator[np.ndarray]":
    """Frames of the whole video, uint8 (h w 3), under a progress bar for windows and one for decoding."""
    from rich.progress import Progress

    from nuwa.generate.long_video import decode_frames, generate_latents

    windows = sum(len(level) for level in plan(len(prompts), pipe.config.window_length, depth))
    with Progress() as progress:
        task = progress.add_task("windows", total=windows)
        latents = generate_latents(
            pipe, prompts, sampling, depth, on_window=lambda window, latents: progress.advance(task)
        )
        yield from progress.track(decode_frames(pipe, latents), total=len(prompts), description="decoding")


if __name__ == "__main__":
    sys.exit(cli.run(main, Generate))
