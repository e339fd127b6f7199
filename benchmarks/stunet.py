"""A training step of the space-time U-Net beside one of the same U-Net without temporal downsampling; a static video.

python -m benchmarks.stunet [--quick]

Rows take turns, each in a process of its own. Writes its section of benchmarks/RESULTS.md; with --quick it only prints.
"""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.results import RESULTS, table, verdict, write_section
from benchmarks.stunet_step import CHANNELS, TOKEN_WIDTH, TOKENS, Shape, image_unet
from nuwa.hierarchy import NuwaError
from nuwa.models.stunet import NUM_FRAMES, SpaceTimeUNet
from pipelines import cli

BAR = 0.6
RIVAL = 0.55
"""Relative difference of a static video of lumiere-pytorch 0.0.24 from its 2-D network: its resampling has gain 2."""
ROWS = {"STUNet": "all", "without temporal downsampling": "0"}
Answer = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure the space-time U-Net and write its table of benchmarks/RESULTS.md."""

    quick: bool = False
    """One round of small frames; prints and writes nothing."""
    rounds: int = 3
    """Measured rounds; the median of them counts."""
    size: int = 32
    """Side of a frame in pixels or latents."""
    width: int = 48
    """Channels of the finest level; 320 is Stable Diffusion's."""
    frames: int = NUM_FRAMES
    """Frames of the clip."""
    results: Path = RESULTS
    """File whose section is replaced."""


def main(config: Benchmark) -> None:
    """Measure, print, and unless `quick` write."""
    if config.rounds < 1 or config.size % 8 or config.width % 8 or config.frames < 1:
        raise NuwaError(
            f"rounds {config.rounds}, size {config.size}, width {config.width}, frames {config.frames}: "
            "all must be above 0, size and width multiples of 8"
        )
    size, rounds = (16, 1) if config.quick else (config.size, config.rounds)
    lines = [
        f"{config.frames} frames of {size}×{size}; 1, 2, 4, 4 times {config.width} channels; one thread; forward, "
        "backward and update of the new parameters; a process for each measurement.",
        "",
    ]
    for shape, words in SHAPES.items():
        lines += [*report(words, measure(shape, config.frames, size, config.width, rounds)), ""]
    lines += static_report(size, config.width)
    if not config.quick:
        command = shlex.join(["python", "-m", "benchmarks.stunet", *sys.argv[1:]])
        write_section("stunet", TITLE, command, lines, config.results)
    print("\n".join([TITLE, *lines]))


SHAPES: dict[Shape, str] = {
    "pixels": "pixels: no attention at the finest level, as in the paper",
    "latents": "latents: Stable Diffusion's blocks, attention at the finest level too",
}
TITLE = "A training step of the space-time U-Net"


def measure(shape: Shape, frames: int, size: int, width: int, rounds: int) -> dict[str, list[Answer]]:
    """Answers of all rounds by row; rows take turns, in the other order every second round."""
    answers: dict[str, list[Answer]] = {name: [] for name in ROWS}
    for number in range(rounds):
        for name in list(ROWS)[:: 1 - 2 * (number % 2)]:
            answers[name].append(_step(shape, ROWS[name], frames, size, width))
    return answers


def _step(shape: Shape, levels: str, frames: int, size: int, width: int) -> Answer:
    command = [sys.executable, "-m", "benchmarks.stunet_step", shape, levels, *map(str, (frames, size, width, 2))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: Answer = json.loads(done.stdout.splitlines()[-1])
    return answer


def report(words: str, answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    """Table and verdicts."""
    rows, median = [], {}
    for name, rounds in answers.items():
        cpu, peak = (statistics.median(one[key] for one in rounds) for key in ("cpu_s", "peak_bytes"))
        median[name] = (cpu, peak)
        spread = f"{min(one['cpu_s'] for one in rounds):.2f}–{max(one['cpu_s'] for one in rounds):.2f}"
        parameters = f"{rounds[0]['trained'] / 1e6:.2f} + {rounds[0]['frozen'] / 1e6:.2f} M"
        rows.append([name, f"{cpu:.2f}", spread, f"{peak / 2**20:.0f} MiB", parameters])
    ours, flat = (median[name] for name in ROWS)
    time_ratio, memory_ratio = (mine / other for mine, other in zip(ours, flat, strict=True))
    return [
        *table([words, "CPU s per step", "least–most", "peak above rest", "trained + frozen"], rows),
        "",
        f"- CPU, STUNet over the other: {verdict(time_ratio, BAR, at_most=True)}",
        f"- peak memory, STUNet over the other: {verdict(memory_ratio, BAR, at_most=True)}",
    ]


@torch.no_grad()
def static_report(size: int, width: int) -> list[str]:
    """Relative difference of a static video from the image network, single and double precision."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        unet = image_unet("pixels", width, size).to(dtype).eval()
        frame, prompts = torch.randn(1, CHANNELS["pixels"], size, size), torch.randn(1, TOKENS, TOKEN_WIDTH)
        frame, prompts = frame.to(dtype), prompts.to(dtype)
        expected = unet(frame, 500, prompts).sample[:, :, None]
        video = frame[:, :, None].expand(-1, -1, 16, -1, -1)
        made = SpaceTimeUNet.from_unet(unet).eval()(video, torch.tensor([500]), prompts)
        found[dtype] = ((made - expected).norm() / expected.expand_as(made).norm()).item()
    return [
        f"- a static video differs from the frozen image network by {found[torch.float32]:.1e} in single and "
        f"{found[torch.float64]:.1e} in double precision (lumiere-pytorch 0.0.24: {RIVAL})"
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main, Benchmark))
