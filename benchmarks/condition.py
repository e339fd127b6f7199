"""What the latent-space shortcut costs in quality and saves in time, on held-out windows of the toon world.

python -m benchmarks.condition [--windows 24] [--quick]

The paper's condition is the T-KLVAE encoding of a window whose unknown frames are zeroed in pixel space; the shortcut
takes the given frames' latents and zeros (`Sampling(condition="latents")`). Both are measured on the shipped model,
which was trained with the paper's, on windows of stride 1 whose ends carry the latents of their parent window, as in
generation. Writes its section of benchmarks/RESULTS.md; with --quick it only prints.
"""

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from demo import world
from pipelines import cli

if TYPE_CHECKING:
    import torch

    from nuwa.generate.pipeline import NuwaXLPipeline
    from nuwa.generate.windows import Condition, WindowTask

CONDITIONS: tuple["Condition", ...] = ("pixels", "latents")
STEPS = (100, 300, 500, 700, 900)
"""Diffusion steps at which the denoising loss is measured."""


@dataclass(frozen=True, kw_only=True)
class MeasureCondition:
    """Denoising loss, generated frames and CPU time with either condition."""

    model: Path = Path("demo/weights/pipeline")
    """Pipeline folder."""
    windows: int = 24
    """Held-out windows, four of every episode."""
    steps: int = 20
    """Sampler steps of the generated windows."""
    guidance: float = 4.0
    seed: int = 3_000_000
    """Of the first episode."""
    quick: bool = False
    """Four windows, four steps, print only."""


@dataclass(frozen=True)
class HeldOut:
    """A window with its true frames: task, pixels (3 l H W) and latents (c l h w)."""

    task: "WindowTask"
    pixels: "torch.Tensor"
    latents: "torch.Tensor"


def main(config: MeasureCondition) -> None:
    import torch

    from benchmarks.results import write_section
    from nuwa.generate.pipeline_folder import load_pipeline

    torch.set_num_threads(1)
    pipe = load_pipeline(config.model)
    count, steps = (4, 4) if config.quick else (config.windows, config.steps)
    windows = [
        window
        for episode in range(-(-count // 4))
        for window in held_out_windows(pipe, config.seed + episode, min(4, count - 4 * episode))
    ]
    losses: dict[str, NDArray[np.float64]] = {
        name or "nothing": denoising_losses(pipe, windows, name).mean(axis=0) for name in (*CONDITIONS, None)
    }
    made = {name: generated(pipe, windows, name, steps, config.guidance) for name in CONDITIONS}
    truth = torch.stack([window.pixels for window in windows])
    lines = [
        f"{len(windows)} held-out windows of stride 1, ends given; the model was trained with `pixels`. Loss of the 14",
        "frames between (v-prediction, the same noise for all rows) by diffusion step, and without any condition:",
        "",
        *loss_table(losses),
        "",
        f"Without any condition the mean loss rises by {share(losses['nothing'], losses['pixels']):.1%}. The less it",
        "rises, the less the model reads its condition at all, and the less equal losses of the two kinds prove.",
        "",
        f"Generated with {steps} steps, guidance {config.guidance:g} and the same noise; CPU seconds per window:",
        "",
        *video_table(made, truth),
        "",
        *saved_time(made),
        f"The two videos differ from each other by {psnr(made['pixels'].pixels, made['latents'].pixels):.1f} dB PSNR.",
    ]
    print("\n".join(lines))
    if not config.quick:
        command = shlex.join(["python", "-m", "benchmarks.condition", *sys.argv[1:]])
        write_section("condition", "Condition: encoded pixels or the latents themselves", command, lines)


def loss_table(losses: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """One row per condition, one column per diffusion step."""
    from benchmarks.results import table

    rows = [[name, *(f"{loss:.4f}" for loss in found), f"{np.mean(found):.4f}"] for name, found in losses.items()]
    return table(["condition", *map(str, STEPS), "mean"], rows)


def video_table(made: dict["Condition", "Generated"], truth: "torch.Tensor") -> list[str]:
    """PSNR of the frames that were not given, and what they cost."""
    from benchmarks.results import table

    inner, nearest = slice(1, -1), [1, -2]
    rows = [
        [
            name,
            f"{psnr(video.pixels[:, :, inner], truth[:, :, inner]):.2f} dB",
            f"{psnr(video.pixels[:, :, nearest], truth[:, :, nearest]):.2f} dB",
            f"{video.encoding_s:.3f}",
            f"{video.sampling_s:.2f}",
        ]
        for name, video in made.items()
    ]
    return table(["condition", "PSNR of frames 1–14", "of frames 1 and 14", "condition", "all of the window"], rows)


def share(found: NDArray[np.float64], beside: NDArray[np.float64]) -> float:
    """How much larger the mean of `found` is than that of `beside`, as a fraction."""
    return float(np.mean(found) / np.mean(beside)) - 1


def saved_time(made: dict["Condition", "Generated"]) -> list[str]:
    """What the shortcut saves, by the time of the condition alone and by that of whole windows."""
    pixels, latents = made["pixels"], made["latents"]
    alone, whole = (pixels.encoding_s - latents.encoding_s), (pixels.sampling_s - latents.sampling_s)
    return [
        f"The shortcut saves {alone / pixels.sampling_s:.0%} of a window's time by the condition's own clock, and",
        f"{whole / pixels.sampling_s:.0%} between the two runs of whole windows, which also differ by what else ran.",
    ]


def held_out_windows(pipe: "NuwaXLPipeline", seed: int, count: int) -> list[HeldOut]:
    """Windows of stride 1 out of one held-out episode; their ends carry latents of the window of stride L − 1."""

    from nuwa.generate.windows import FixedFrame, WindowTask
    from nuwa.hierarchy import Window

    length, fps = pipe.config.window_length, pipe.config.train_fps
    span = length - 1
    episode = world.random_episode(seed, fps, (span * span + 1) / fps + 0.5, held_out=True)

    above = pixels_of(pipe, episode, range(0, span * span + 1, span))
    above_latents = encoded(pipe, above)
    found = []
    for index in range(1, span, span // count)[:count]:
        numbers = range(index * span, index * span + length)
        prompts = tuple(episode.scenes[episode.scene_of_frame(n)].caption for n in numbers)
        ends = {
            place: FixedFrame(above_latents[:, index + place // span], above[:, index + place // span])
            for place in (0, span)
        }
        pixels = pixels_of(pipe, episode, numbers)
        window = Window(1, (seed * span) % 2**31 + index, index * span, 1)
        found.append(HeldOut(WindowTask(window, prompts, ends), pixels, encoded(pipe, pixels)))
    return found


def pixels_of(pipe: "NuwaXLPipeline", episode: world.Episode, numbers: range) -> "torch.Tensor":
    """True frames (3 l H W) in [−1, 1]."""
    import torch

    size = (pipe.config.width, pipe.config.height)
    drawn = (world.draw_frame(episode, number, 128, 128) for number in numbers)
    frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in drawn]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


def encoded(pipe: "NuwaXLPipeline", pixels: "torch.Tensor") -> "torch.Tensor":
    """Scaled latents (c l h w) of pixels (3 l H W)."""
    import torch

    with torch.no_grad():
        return pipe.vae.encode(pixels[None]).mode()[0] * pipe.vae.config.scaling_factor


def denoising_losses(
    pipe: "NuwaXLPipeline", windows: list[HeldOut], condition: "Condition | None"
) -> NDArray[np.float64]:
    """Loss of the frames that are not given, of each window at each of STEPS (n s); without condition none is given."""
    import torch

    from nuwa.diffusion.objective import add_noise, target
    from nuwa.generate.windows import conditioning

    abar, kind = pipe.scheduler.alphas_cumprod, pipe.scheduler.config.prediction_type
    losses = np.zeros((len(windows), len(STEPS)))
    for row, window in enumerate(windows):
        z_c, _, mask = conditioning(pipe, [window.task], condition or "pixels")
        known = (None, None) if condition is None else (z_c, mask)
        tokens = torch.stack([pipe.encode_prompts([prompt])[0] for prompt in window.task.prompts])[None]
        rest = (torch.tensor([1]), torch.tensor([[pipe.config.train_fps, float("nan"), 0.0]]))
        for column, number in enumerate(STEPS):
            step = torch.tensor([number])
            generator = torch.Generator().manual_seed(1000 * row + column)
            z0, eps = window.latents[None], torch.randn(window.latents[None].shape, generator=generator)
            with torch.no_grad():
                prediction = pipe.denoiser_at(1)(add_noise(z0, eps, step, abar), step, tokens, *known, *rest)
            error = prediction - target(kind, z0, eps, step, abar)
            losses[row, column] = float(error[:, :, 1:-1].square().mean())
    return losses


@dataclass(frozen=True)
class Generated:
    """Frames (b 3 l H W) and CPU seconds per window."""

    pixels: "torch.Tensor"
    encoding_s: float
    sampling_s: float


def generated(
    pipe: "NuwaXLPipeline", windows: list[HeldOut], condition: "Condition", steps: int, guidance: float
) -> Generated:
    """The windows sampled from their ends and prompts."""
    import torch

    from nuwa.generate.windows import Sampling, WindowSampler, conditioning

    sampling = Sampling(steps=steps, guidance=guidance, batch=4, fps=pipe.config.train_fps, condition=condition)
    sampler, tasks = WindowSampler(pipe, sampling), [window.task for window in windows]
    started = time.process_time()
    with torch.no_grad():
        for task in tasks:
            conditioning(pipe, [task], condition)
    encoding_s = time.process_time() - started
    started = time.process_time()
    latents = torch.stack([result.latents for result in sampler.sample(tasks, pixels=False)])
    sampling_s = time.process_time() - started
    pixels = torch.cat([sampler.decode(row[None]) for row in latents])
    return Generated(pixels, encoding_s / len(tasks), sampling_s / len(tasks))


def psnr(found: "torch.Tensor", expected: "torch.Tensor") -> float:
    """Decibels, of values in [−1, 1]."""
    return float(10 * np.log10(4.0 / float((found - expected).square().mean())))


if __name__ == "__main__":
    sys.exit(cli.run(main, MeasureCondition))
