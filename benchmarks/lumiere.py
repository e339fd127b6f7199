"""One pass (Lumiere) beside keyframes and infilling (NUWA-XL), beside lumiere-pytorch, and where its windows meet.

python -m benchmarks.lumiere --stunet FOLDER [--ssr FOLDER] [--only phase|static|cost|borders] [--quick]

Phase: toon motion whose period is shorter than two strides of keyframes; error of the hero's phase, in periods. Static:
a video that stands still beside the image network, with lumiere-pytorch where benchmarks/peers.sh has installed it.
Cost: CPU and memory per frame of one denoiser evaluation. Borders: adjacent-frame error where windows meet.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks.hero_phase import CHANCE, PhaseError, Video, fast_scenes, mean_error, phase_error
from benchmarks.lumiere_videos import (
    Join,
    Walk,
    borders_of_sampling,
    borders_of_super_resolution,
    by_keyframes,
    by_one_pass,
    inflated,
)
from benchmarks.results import REPOSITORY, RESULTS, table, verdict, write_section
from benchmarks.seams import draw, reconstruct
from benchmarks.stunet_step import CHANNELS, TOKEN_WIDTH, TOKENS, image_unet
from benchmarks.window_borders import ratio
from demo.world import Scene
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.generate.stunet_pipeline import StunetPipeline, load_stunet
from nuwa.hierarchy import NuwaError, plan
from nuwa.models.stunet import SpaceTimeUNet
from pipelines import cli

Part = Literal["phase", "static", "cost", "borders"]
Answers = Mapping[str, list[Mapping[str, float]]]
BORDER_BAR = 1.1
PEERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nuwa-bench/peers"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure one pass beside diffusion over diffusion and write the tables of benchmarks/RESULTS.md."""

    stunet: Path | None = None
    """Pipeline folder with a trained space-time U-Net. Default with --quick: an untrained one."""
    ssr: Path | None = None
    """Pipeline folder with a trained super-resolution, for the borders of its windows."""
    nuwa: Path = Path("demo/weights/pipeline")
    """Pipeline folder of NUWA-XL, trained on the same footage."""
    only: Part | None = None
    """One part. Default: all of them."""
    videos: int = 12
    """Videos of each kind, half of them of each motion."""
    frames: int | None = None
    """Frames of each video of the phase. Default: those of a clip that the space-time U-Net was trained for, so that it
    is one pass; more are joined of windows, and the table says so."""
    steps: int = 20
    """Sampler steps."""
    guidance: float = 4.0
    """Classifier-free guidance scale."""
    seed: int = 3_000_000
    """Of the scenes."""
    rounds: int = 3
    """Rounds of the cost; the median counts."""
    size: int = 32
    """Side of a frame, in pixels, of the static video and the cost."""
    width: int = 48
    """Channels of the finest level there; 320 is Stable Diffusion's."""
    peers: Path = PEERS
    """Folder that benchmarks/peers.sh has filled."""
    quick: bool = False
    """Two short videos, few steps, small networks; prints and writes nothing."""
    results: Path = RESULTS
    """File whose sections are replaced."""

    def __post_init__(self) -> None:
        if min(self.videos, self.rounds, self.steps) < 1 or self.size % 8 or self.width % 8:
            raise NuwaError(
                f"videos {self.videos}, rounds {self.rounds}, steps {self.steps}, size {self.size}, width "
                f"{self.width}; give numbers above 0, size and width multiples of 8"
            )


TITLES: dict[Part, str] = {
    "phase": "One pass beside keyframes and infilling: motion faster than the keyframes",
    "static": "A static video beside its image network, ours and lumiere-pytorch",
    "cost": "A denoiser evaluation per frame: space-time U-Net beside MTD",
    "borders": "Where windows meet: adjacent frames at borders over the interior",
}


def main(config: Benchmark) -> None:
    """Measure the parts asked for, print, and unless `quick` write."""
    parts = {"phase": phase, "static": static, "cost": cost, "borders": borders}
    for name, title in TITLES.items():
        if config.only in (None, name):
            lines = parts[name](config)
            if not config.quick:
                command = shlex.join(["python", "-m", "benchmarks.lumiere", *sys.argv[1:]])
                write_section(f"lumiere-{name}", title, command, lines, config.results)
            print("\n".join([title, "", *lines, ""]), flush=True)


def phase(config: Benchmark) -> list[str]:
    """Table of phase errors, by motion."""
    nuwa, stunet, walk = *_models(config), _walk(config)
    count, frames = 2 if config.quick else config.videos, phase_frames(config, nuwa, stunet)
    levels, one_pass = plan(frames, nuwa.config.window_length), ONE_PASS + joined(frames, stunet)
    errors: dict[str, list[PhaseError]] = {}
    scenes = fast_scenes(count, frames / nuwa.config.train_fps, config.seed)
    for number, scene in enumerate(scenes):
        for name, (video, fps) in _videos(nuwa, stunet, scene, frames, walk, number).items():
            title = one_pass if name == ONE_PASS else name
            errors.setdefault(title, []).append(phase_error(video, scene, fps))
        print(f"video {number + 1} of {count}", file=sys.stderr, flush=True)
    motions = list(dict.fromkeys(scene.action for scene in scenes))
    rows = []
    for name, found in errors.items():
        by_motion = [
            [one for one, scene in zip(found, scenes, strict=True) if scene.action == each] for each in motions
        ]
        means = [mean_error(part) for part in (*by_motion, found)]
        rows.append([name, *(f"{mean.periods:.3f}" for mean in means), f"{means[-1].found:.0%}"])
    pass_, tree = (mean_error(errors[name]).periods for name in (one_pass, KEYFRAMES))
    return [
        f"{count} videos of {frames} frames; keyframes are {levels[0][0].stride} frames apart; {walk.steps} sampler "
        f"steps, guidance {walk.guidance:g}. Root mean square of the phase's deviation from a steady advance, in "
        f"periods; phases that mean nothing have {CHANCE:.3f}.",
        "",
        *table(["", *motions, "both", "frames with a hero"], rows),
        "",
        f"- one pass over keyframes and infilling: {pass_ / tree:.2f}",
    ]


def phase_frames(config: Benchmark, nuwa: NuwaXLPipeline, stunet: StunetPipeline) -> int:
    """Frames of the videos of the phase. NuwaError for as few as NUWA-XL makes without keyframes."""
    window, clip = int(nuwa.config.window_length), int(stunet.config.window_length)
    if config.frames is None:
        frames = 2 * window - 1 if config.quick else clip
        where = "" if config.quick else f", the clip that {config.stunet} was trained for"
    else:
        frames, where = config.frames, ""
    if len(plan(frames, window)) < 2:
        raise NuwaError(f"frames is {frames}{where}, one window of NUWA-XL; give --frames {window + 1} or more")
    return frames


def joined(frames: int, stunet: StunetPipeline) -> str:
    """What the table adds where a clip is not one pass."""
    window = int(stunet.config.window_length)
    return "" if frames <= window else f", windows of {window} joined"


KEYFRAMES, ONE_PASS = "keyframes and infilling (NUWA-XL)", "one pass (space-time U-Net)"


def _videos(
    nuwa: NuwaXLPipeline, stunet: StunetPipeline, scene: Scene, frames: int, walk: Walk, seed: int
) -> dict[str, tuple[Video, float]]:
    """Name → video and its frame rate."""
    rate, prompts = float(nuwa.config.train_fps), [scene.caption] * frames
    drawn = draw([scene] * frames, nuwa)
    return {
        "the scene, drawn": (drawn, rate),
        "· through the autoencoder": (reconstruct(nuwa, drawn), rate),
        "· its first frame, standing still": (np.repeat(drawn[:1], frames, axis=0), rate),
        KEYFRAMES: (by_keyframes(nuwa, prompts, walk, seed), rate),
        ONE_PASS: (by_one_pass(stunet, prompts, walk, seed), float(stunet.config.train_fps)),
    }


def static(config: Benchmark) -> list[str]:
    """Relative difference of a video that stands still from the image network, ours and the peer's."""
    size, width = (16, 16) if config.quick else (config.size, config.width)
    rows = [["ours", f"{_static_of_ours(size, width):.1e}"]]
    peer = _peer(config.peers / "lumiere", size, width)
    rows.append(["lumiere-pytorch", "not installed"] if peer is None else [f"lumiere-pytorch {peer[0]}", peer[1]])
    return [
        f"16 equal frames of {size}×{size} px through one image U-Net (1, 2, 4, 4 times {width} channels, random "
        "weights), inflated by either; ‖video − image‖ / ‖image‖, single precision. The peer's temporal downsampling "
        "has gain 2; how much of it is left depends on what follows.",
        "",
        *table(["", "relative difference"], rows),
    ]


@torch.no_grad()
def _static_of_ours(size: int, width: int) -> float:
    unet = image_unet("pixels", width, size).eval()
    frame, prompts = torch.randn(1, CHANNELS["pixels"], size, size), torch.randn(1, TOKENS, TOKEN_WIDTH)
    expected = unet(frame, 500, prompts).sample[:, :, None]
    video = frame[:, :, None].expand(-1, -1, 16, -1, -1)
    made = SpaceTimeUNet.from_unet(unet).eval()(video, torch.tensor([500]), prompts)
    return ((made - expected).norm() / expected.expand_as(made).norm()).item()


def _peer(folder: Path, size: int, width: int) -> tuple[str, str] | None:
    """Version and figure of lumiere-pytorch; None where it is not installed."""
    if not (folder / "lumiere_pytorch").is_dir():
        return None
    command = [sys.executable, "-m", "benchmarks.peers.run_lumiere", str(size), str(width)]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path}
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return str(answer["version"]), f"{answer['relative']:.2f}"


def cost(config: Benchmark) -> list[str]:
    """CPU and memory per frame of one evaluation, both networks made of the same image U-Net."""
    size, width, rounds = (16, 16, 1) if config.quick else (config.size, config.width, config.rounds)
    length, lines = 16, []
    names = {f"space-time U-Net, {FRAMES} frames": ("stunet", FRAMES), f"MTD, a window of {length}": ("mtd", length)}
    windows = sum(map(len, plan(FRAMES, length)))
    for shape in ("pixels", "latents"):
        answers: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, (kind, frames) in names.items():
                answers[name].append(_cost(kind, shape, frames, size, width))
        lines += [*_cost_table(answers, windows * length / FRAMES, shape), ""]
    return [
        f"Frames of {size}×{size}; 1, 2, 4, 4 times {width} channels; one thread, a process each. Diffusion over "
        f"diffusion makes {FRAMES} frames with {windows} windows of {length}, {windows * length} frames in all.",
        "",
        *lines,
    ]


FRAMES = 80


def _cost(kind: str, shape: str, frames: int, size: int, width: int) -> Mapping[str, float]:
    command = [sys.executable, "-m", "benchmarks.lumiere_cost", kind, shape, *map(str, (frames, size, width, 2))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    answer: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _cost_table(answers: Answers, work: float, shape: str) -> list[str]:
    rows, medians = [], []
    for name, rounds in answers.items():
        seconds, peak = (statistics.median(one[key] for one in rounds) for key in ("cpu_s_per_frame", "peak_bytes"))
        medians.append((seconds, peak / rounds[0]["frames"]))
        rows.append([name, f"{1000 * seconds:.1f}", f"{peak / 2**20:.0f} MiB", f"{medians[-1][1] / 2**20:.2f} MiB"])
    (ours, our_memory), (window, memory) = medians
    return [
        *table([shape, "CPU ms per frame", "peak above rest", "per frame"], rows),
        "",
        f"- per frame of the finished video, one pass over diffusion over diffusion: CPU {ours / (window * work):.2f}, "
        f"memory at once {our_memory / memory:.2f} per frame held",
    ]


def borders(config: Benchmark) -> list[str]:
    """Ratios of every model that is there, by the way its windows are joined."""
    nuwa, stunet, walk = *_models(config), _walk(config)
    count = 1 if config.quick else max(config.videos // 3, 1)
    rows, verdicts = [], []
    for name, pipe in (("MTD", nuwa), ("space-time U-Net", stunet)):
        length = int(pipe.config.window_length)
        frames = 3 * length if not config.quick else 2 * length
        scenes = fast_scenes(count, frames / pipe.config.train_fps, config.seed)
        joins = [*JOINS, Join("half of a window, falling weights (default of clips)", length // 2, "ramp")]
        found = [ratio(borders_of_sampling(pipe, scenes, frames, join, walk)) for join in joins]
        rows += [[name, join.name, f"{value:.2f}"] for join, value in zip(joins, found, strict=True)]
        verdicts.append(f"- {name}, half of a window: {verdict(found[-1], BORDER_BAR, at_most=True)}")
    large = stunet if config.ssr is None else load_stunet(config.ssr)
    if large.ssr is not None and (config.quick or config.ssr is not None):
        frames = 3 * int(large.config.ssr_length)
        scenes = fast_scenes(count, frames / large.config.train_fps, config.seed)
        found = [ratio(borders_of_super_resolution(large, nuwa, scenes, frames, join, walk)) for join in JOINS]
        rows += [["super-resolution", join.name, f"{value:.2f}"] for join, value in zip(JOINS, found, strict=True)]
        verdicts.append(
            f"- super-resolution, 2 frames, falling weights: {verdict(found[-1], BORDER_BAR, at_most=True)}"
        )
    return [
        f"{count} videos of three windows each; {walk.steps} sampler steps, guidance {walk.guidance:g} (1 for "
        "super-resolution). Mean squared difference of neighbouring frames where windows begin or end, over that of "
        "all other frames, of what the network makes (before it is decoded).",
        "",
        *table(["", "windows share", "borders / interior"], rows),
        "",
        *verdicts,
    ]


JOINS = (
    Join("nothing: plain concatenation", 0),
    Join("2 frames, plain mean (the paper's)", 2),
    Join("2 frames, falling weights (default of super-resolution)", 2, "ramp"),
)


def _models(config: Benchmark) -> tuple[NuwaXLPipeline, StunetPipeline]:
    if config.stunet is None and not config.quick:
        raise NuwaError("this part needs a trained space-time U-Net; give --stunet FOLDER, or try it out with --quick")
    nuwa = load_pipeline(config.nuwa)
    return nuwa, inflated(nuwa) if config.stunet is None else load_stunet(config.stunet)


def _walk(config: Benchmark) -> Walk:
    return Walk(steps=2 if config.quick else config.steps, guidance=config.guidance)


if __name__ == "__main__":
    sys.exit(cli.run(main, Benchmark))
