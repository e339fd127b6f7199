"""What a training shows of itself on the way: a small video or pictures by the averaged weights, with their figures.

The loss says little about what is made. Prompts, noise and sizes are the same each time, so that one sample compares
with the next; nothing here draws from the random numbers of the training.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from nuwa.data.runs import Run
from nuwa.diffusion.guidance import guided
from nuwa.diffusion.objective import Denoiser
from nuwa.evaluate import flow
from nuwa.evaluate.seams import gradient_energy, seams
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import frame_plan, generate_frames
from nuwa.generate.pipeline import spread
from nuwa.generate.samplers import Sampler, denoise
from nuwa.generate.video_files import write_video
from nuwa.generate.windows import Sampling, WindowSampler, noise_generator
from nuwa.hierarchy import NuwaError
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.run_folder import step_name

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from nuwa.generate.pipeline import NuwaXLPipeline

SAMPLER_STEPS = 10
GUIDANCE = 4.0
SCENES, PICTURES, LOCAL_WINDOWS = 3, 8, 4
"""Prompts of the story; pictures of a sheet; windows that the story's global one has below it."""


@dataclass(frozen=True)
class Shown:
    """A sample.

    frames: uint8 (n h w 3), RGB; fps: of the video that they are, 1/s, or None for single pictures
    figures: numbers by name
    """

    frames: NDArray[np.uint8]
    fps: float | None
    figures: dict[str, float]

    @classmethod
    def pictures(cls, decoded: torch.Tensor) -> "Shown":
        """Single pictures, (b 3 h w) in about [−1, 1], and how sharp they are."""
        frames = uint8_of(decoded[:, :, None])
        return cls(frames, None, {"gradient_energy": float(gradient_energy(frames).mean())})


def write_sample(shown: Shown, output: Path, step: int) -> None:
    """Write `samples/step-000123.mp4`, or `.png` with all pictures in a row. TrainError when it cannot be written."""
    path = output / "samples" / step_name(step)
    try:
        if shown.fps is not None:
            even = shown.frames[:, : shown.frames.shape[1] // 2 * 2, : shown.frames.shape[2] // 2 * 2]
            write_video(path.with_suffix(".mp4"), even, shown.fps)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"_{path.name}.png")
        Image.fromarray(rearrange(shown.frames, "n h w c -> h (n w) c")).save(draft)
        draft.replace(path.with_suffix(".png"))
    except (OSError, NuwaError) as error:
        raise TrainError(f"sample {path} cannot be written ({error}); make room, or give --sample-every 0") from error


def check_walk(scheduler: "SchedulerMixin", config: TrainConfig) -> None:
    """Raise TrainError when samples are asked for and the noise schedule cannot be walked."""
    if not config.sample_every:
        return
    try:
        Sampler(scheduler, "trained", SAMPLER_STEPS, torch.device("cpu"))
    except NuwaError as error:
        raise TrainError(f"sample_every is {config.sample_every}, but {error}; or give --sample-every 0") from error


def prompts_of(runs: Iterable[Run], count: int) -> list[str]:
    """The first `count` different prompts of `runs`, fewer where there are not as many; one empty one if none."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys(run.prompts)
        if len(found) >= count:
            break
    return list(found)[:count] or [""]


def story(pipe: "NuwaXLPipeline", runs: Sequence[Run], config: TrainConfig) -> Shown:
    """A story of a few prompts: one global window with four local ones below it, or a single window at depth 1."""
    length = config.window_length
    windows = min(LOCAL_WINDOWS, length - 1) if config.depth > 1 else 1
    prompts = spread(prompts_of(runs, SCENES), (length - 1) * windows + 1)
    sampling = Sampling(
        steps=SAMPLER_STEPS,
        guidance=guidance_of(config),
        seed=config.seed,
        fps=pipe.config.train_fps,
        condition=config.condition,
    )
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    frames = np.stack(list(generate_frames(frame_plan(prompts, length), executor)))
    figures = video_figures(frames)
    if windows > 1:
        figures["seam_ratio"] = seams(frames, length, prompts=prompts)[0].ratio
    return Shown(frames, pipe.config.train_fps, _known(figures))


def pictures(
    denoiser: Denoiser, scheduler: "SchedulerMixin", tokens: torch.Tensor, shape: tuple[int, ...], config: TrainConfig
) -> torch.Tensor:
    """Latents (b c h w) of pictures, by the schedule's own sampler.

    tokens: (1 + b n d), the empty prompt, then that of each picture; shape: (c h w) of a latent
    """
    device, count = tokens.device, len(tokens) - 1
    generators = [noise_generator(config.seed, "picture", 0, number) for number in range(count)]
    noise = torch.stack([torch.randn(shape, generator=each) for each in generators]).to(device)
    predict = guided(denoiser, guidance_of(config), tokens[0])
    sampler = Sampler(scheduler, "trained", SAMPLER_STEPS, device)
    nothing = torch.zeros_like(noise)
    return denoise(lambda zt, step: predict(zt, step, tokens[1:]).float(), sampler, noise, nothing, nothing, generators)


def guidance_of(config: TrainConfig) -> float:
    """None for a network that never learned the empty prompt."""
    return GUIDANCE if config.prompt_dropout > 0 else 1.0


def reconstruction(video: torch.Tensor, decoded: torch.Tensor, fps: float | None) -> Shown:
    """What went in beside what came out, to the right of it in a video and below it in pictures.

    video, decoded: (b 3 t h w) in [−1, 1]; all frames of all rows, one after another
    """
    error = decoded.float().clamp(-1.0, 1.0) - video
    psnr = -10.0 * torch.log10(error.square().mean() / 4.0)
    given, made = uint8_of(video), uint8_of(decoded)
    figures = {"psnr": float(psnr), "sharpness_ratio": _ratio(gradient_energy(made), gradient_energy(given))}
    if fps is not None:
        figures |= video_figures(made)
    return Shown(np.concatenate([given, made], axis=1 if fps is None else 2), fps, _known(figures))


def uint8_of(video: torch.Tensor) -> NDArray[np.uint8]:
    """(b 3 t h w) in [−1, 1] → uint8 ((b t) h w 3)."""
    pixels = ((video.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).cpu()
    return rearrange(pixels.numpy(), "b c t h w -> (b t) h w c")


def video_figures(frames: NDArray[np.uint8]) -> dict[str, float]:
    """Sharpness, and what optical flow tells of frames (t h w 3) large enough for it: flicker, warp error, motion."""
    figures = {"gradient_energy": float(gradient_energy(frames).mean())}
    if min(frames.shape[1:3]) < flow.SMALLEST_PX or len(frames) < 2:
        return figures
    steps = flow.steps(frames)
    for name, values in (
        ("flicker", [step.flicker for step in steps]),
        ("warp_error", [step.warp for step in steps]),
        ("motion", [step.motion for step in steps]),
    ):
        known = [value for value in values if value == value]
        figures[name] = float(np.mean(known)) if known else float("nan")
    return figures


def _ratio(some: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    return float(some.mean() / others.mean()) if others.mean() > 0 else float("nan")


def _known(figures: dict[str, float]) -> dict[str, float]:
    """Without those that a curve cannot show."""
    return {name: value for name, value in figures.items() if np.isfinite(value)}
