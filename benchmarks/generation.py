"""The bars of generation, measured: diffusion over diffusion beside autoregression with the same denoiser, memory, the
batch curve, Ray workers, where the time goes, and a video that is killed and resumed. Writes its sections of
benchmarks/RESULTS.md.

python -m benchmarks.generation [--only table|memory|batch|workers|shares|kills] [--quick] [--device cuda]
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import generation_kills, generation_memory
from benchmarks.generation_kills import Kills
from benchmarks.results import REPOSITORY, RESULTS, table, verdict, write_section
from nuwa.evaluate.denoiser_calls import autoregressive_calls, hierarchical_calls, windows_per_level
from nuwa.hierarchy import NuwaError
from pipelines import cli

Part = Literal["table", "memory", "batch", "workers", "shares", "kills"]
LENGTH = 16
LENGTHS = (16, 226, 256, 1024, 3376)
QUICK_LENGTHS = (16, 46)
OVERLAPS = (1, 8)
GPU_VARIANTS: dict[str, list[str]] = {
    "float32": [],
    "bf16": ["--bf16"],
    "bf16, channels-last": ["--bf16", "--channels-last"],
    "bf16, channels-last, compiled": ["--bf16", "--channels-last", "--compiled"],
}
Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Measure generation and write the tables of benchmarks/RESULTS.md."""

    only: Part | None = None
    """One part; by default all of them."""
    model: Path = Path("demo/weights/pipeline")
    """Pipeline folder, windows of 16 frames."""
    steps: int = 4
    """Sampler steps per window: few, so that 3376 frames take minutes; ratios hardly depend on it."""
    usual_steps: int = 20
    """Sampler steps where shares of the time are measured: those of the command's default."""
    guidance: float = 4.0
    """Classifier-free guidance scale; above 1 the denoiser sees every window twice."""
    batch: int | None = None
    """Local windows at once; by default 5 on a CPU and 75 on a GPU, which divide 15 and 225."""
    repeats: int = 2
    """How often the two videos whose ratio is a bar are made, in turn; the median counts."""
    kills: int = 5
    """How often the video is killed."""
    seed: int = 0
    """Decides when."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda measures the same on a GPU, larger batches, bf16, channels-last and compiled; not the Ray workers nor the
    memory of processes."""
    quick: bool = False
    """Few frames, one sampler step; prints and writes nothing. For trying the measurement out."""
    results: Path = RESULTS
    """File whose sections are replaced."""

    def __post_init__(self) -> None:
        for name in ("steps", "usual_steps", "repeats", "kills"):
            if getattr(self, name) < 1:
                raise NuwaError(f"{name} is {getattr(self, name)}; give 1 or more")

    @property
    def lengths(self) -> tuple[int, ...]:
        return QUICK_LENGTHS if self.quick else LENGTHS

    @property
    def windows_at_once(self) -> int:
        return self.batch or (5 if self.device == "cpu" else 75)

    @property
    def sampler_steps(self) -> int:
        return 1 if self.quick else self.steps


def main(config: Generation) -> None:
    """Measure the parts that are wanted, one after another."""
    command = shlex.join(["python", "-m", "benchmarks.generation", *sys.argv[1:]])
    parts: dict[Part, tuple[str, Callable[[Generation], list[str]]]] = {
        "table": ("Diffusion over diffusion beside autoregression", measure_table),
        "memory": ("Peak memory of the command", measure_memory),
        "batch": ("One denoiser call by batch", measure_batch),
        "workers": ("Ray workers", measure_workers),
        "shares": ("Where the time of a video goes", measure_shares),
        "kills": ("A video killed and resumed", measure_kills),
    }
    on_gpu = " on a GPU" if config.device == "cuda" else ""
    usual = [name for name in parts if not (on_gpu and name in ("workers", "memory"))]
    for part in [config.only] if config.only else usual:
        title, measure = parts[part]
        lines = measure(config)
        if not config.quick:
            name = f"generation-{part}{'-gpu' if on_gpu else ''}"
            write_section(name, f"{title}{on_gpu}", command, lines, config.results, config.device)
        print("\n".join([f"## {title}", "", *lines, ""]), flush=True)


def measure_table(config: Generation) -> list[str]:
    """Wall, device-seconds, calls and memory by length, autoregression beside diffusion over diffusion."""
    last = config.lengths[-1]
    made: dict[tuple[int, int | None], list[Answer]] = {}
    jobs = [(frames, overlap) for frames in config.lengths for overlap in (*OVERLAPS, None)]
    jobs += [(last, overlap) for _ in range((1 if config.quick else config.repeats) - 1) for overlap in (None, 1)]
    for frames, overlap in jobs:
        made.setdefault((frames, overlap), []).append(once(config, frames, overlap))
    rows = [_row(config, frames, overlap, answers) for (frames, overlap), answers in made.items()]
    head = ["frames", "method", "calls (formula)", "windows denoised", "wall s", "device s", "CPU s", "peak MiB"]
    return [
        f"Trained demo model, 32 px, {config.sampler_steps} sampler steps, guidance {config.guidance:g} (every call "
        f"sees each window twice), diffusion over diffusion in batches of {config.windows_at_once} windows, a process "
        "for every video, from the loaded model to the last decoded frame. One device, so device-seconds are wall "
        "seconds. `o`: frames that neighbouring windows share. Peak: of the process, or of the GPU's allocator.",
        "",
        *table([*head, "· above the loaded model"], rows),
        "",
        *_bars(config, made),
    ]


def _row(config: Generation, frames: int, overlap: int | None, answers: Sequence[Answer]) -> list[str]:
    calls, expected = answers[0]["denoiser_calls"], _formula(config, frames, overlap)
    assert {answer["denoiser_calls"] for answer in answers} == {calls}
    assert len({answer["found"]["sha256"] for answer in answers}) == 1, "the same command made different frames"
    wall, cpu, peak, own = (_median(answers, key) for key in ("wall_s", "cpu_s", _peak(config), "own_bytes"))
    return [
        str(frames),
        "diffusion over diffusion" if overlap is None else f"autoregression, o = {overlap}",
        f"{calls} ({expected}{'' if calls == expected else ': **differs**'})",
        str(_denoised(config, frames, overlap)),
        f"{wall:.1f}",
        f"{wall:.1f}",
        f"{cpu:.1f}",
        f"{peak / 2**20:.0f}",
        f"{own / 2**20:.0f}",
    ]


def _bars(config: Generation, made: dict[tuple[int, int | None], list[Answer]]) -> list[str]:
    """Each promise, kept or missed."""
    last, two_levels = config.lengths[-1], config.lengths[1]
    ratio = _median(made[last, None], "wall_s") / _median(made[last, 1], "wall_s")
    peaks = [_median(made[frames, None], _peak(config)) for frames in (two_levels, last)]
    own = [_median(made[frames, None], "own_bytes") for frames in (two_levels, last)]
    lines = [
        f"- device-seconds over those of autoregression, o = 1, at {last} frames: {verdict(ratio, 1.10, at_most=True)}",
        f"- peak memory of {last} over {two_levels} frames, without what the command adds: "
        f"{verdict(peaks[1] / peaks[0], generation_memory.BAR, at_most=True)}; of what lies above the loaded model "
        f"(the bar is ours): {verdict(own[1] / max(own[0], 1), generation_memory.OWN_BAR, at_most=True)}",
    ]
    if config.device == "cuda" and 1024 in config.lengths:
        speed_up = _median(made[1024, 1], "wall_s") / _median(made[1024, None], "wall_s")
        lines.append(
            f"- times faster than autoregression, o = 1, at 1024 frames: {verdict(speed_up, 5, at_most=False)}"
        )
    return lines


def _formula(config: Generation, frames: int, overlap: int | None) -> int:
    if overlap is None:
        return hierarchical_calls(frames, LENGTH, config.sampler_steps, config.windows_at_once)
    return autoregressive_calls(frames, LENGTH, overlap, config.sampler_steps)


def _denoised(config: Generation, frames: int, overlap: int | None) -> int:
    """Windows that pass the denoiser, padding included."""
    if overlap is not None:
        return autoregressive_calls(frames, LENGTH, overlap, 1)
    batch, (_, *local) = config.windows_at_once, windows_per_level(frames, LENGTH)
    return 1 + sum(-(-windows // batch) * batch for windows in local)


def _peak(config: Generation) -> str:
    return "device_peak_bytes" if config.device == "cuda" else "peak_bytes"


def _median(answers: Sequence[Answer], key: str) -> float:
    return statistics.median(float(answer[key]) for answer in answers)


def measure_batch(config: Generation) -> list[str]:
    """t(B), and what it says about more windows at once."""
    sizes = [1, 2, 4] if config.quick else [1, 2, 4, 5, 8, 15, 16, 32] + [64, 128, 256] * (config.device == "cuda")
    variants = GPU_VARIANTS if config.device == "cuda" else {"float32": []}
    lines = [
        "One call on B windows of 16 frames, median of 5 rounds through all B. t(1)·B/t(B): how many times more",
        "",
    ]
    rows = []
    for name, words in variants.items():
        arguments = ["--model", config.model, "--device", config.device, *words, "--sizes", *sizes]
        found = {int(size): float(s) for size, s in child("benchmarks.batch_curve", arguments, name).items()}
        rows.append([f"{name}: t(B) in ms", *[f"{1000 * found[size]:.1f}" for size in sizes]])
        rows.append(["t(1)·B/t(B)", *[f"{found[1] * size / found[size]:.2f}" for size in sizes]])
    lines[0] += " windows a second than one at a time. Where it stays at 1 the device is saturated by a single window."
    return [*lines, *table(["B", *map(str, sizes)], rows)]


def measure_workers(config: Generation) -> list[str]:
    """The same video by K Ray actors of one thread each, and by one process of one thread."""
    frames, steps = (config.lengths[1], 1) if config.quick else (1024, max(1, config.steps // 2))
    answers = {count: once(config, frames, None, workers=count, threads=1, steps=steps) for count in (None, 1, 2)}
    wall = {workers: float(answer["wall_s"]) for workers, answer in answers.items()}
    same = len({answer["found"]["sha256"] for answer in answers.values()}) == 1
    rows = [
        [
            "this process" if workers is None else f"Ray, K = {workers}",
            str(hierarchical_calls(frames, LENGTH, steps, config.windows_at_once, workers or 1)),
            f"{wall[workers]:.1f}",
            f"{wall[workers] * (workers or 1):.1f}",
            f"{wall[None] / wall[workers]:.2f}",
            f"{max(answer['peak_bytes'], answer['worker_peak_bytes']) / 2**20:.0f}",
        ]
        for workers, answer in answers.items()
    ]
    return [
        f"{frames} frames, {steps} steps, batches of {config.windows_at_once}; a device is a core, one "
        f"thread. Workers are up before the clock starts. All frames bitwise equal: {'yes' if same else '**no**'}.",
        "",
        *table(["", "calls in a row", "wall s", "device s", "× this process", "peak MiB of a process"], rows),
    ]


def measure_shares(config: Generation) -> list[str]:
    """Time inside denoiser and autoencoder, and the rest, at the command's usual number of steps."""
    frames, steps = config.lengths[1], 1 if config.quick else config.usual_steps
    rows, outside = [], 0.0
    for name, words in (GPU_VARIANTS if config.device == "cuda" else {"float32": []}).items():
        answer = once(config, frames, None, words=["--shares", *words], steps=steps)
        wall, inside = float(answer["wall_s"]), [float(answer[key]) for key in ("denoiser_s", "autoencoder_s")]
        outside = 100 * (wall - sum(inside)) / wall
        rows.append([name, f"{wall:.1f}", *[f"{100 * seconds / wall:.1f} %" for seconds in inside], f"{outside:.1f} %"])
    bar = verdict(outside, 5, at_most=True) if config.device == "cuda" else f"{outside:.2f} (a bar of ≤ 5 on a GPU)"
    return [
        f"{frames} frames, {steps} sampler steps, batches of {config.windows_at_once}.",
        "",
        *table(["", "wall s", "denoiser", "autoencoder", "everything else"], rows),
        "",
        f"- share outside denoiser and autoencoder{', last row' if len(rows) > 1 else ''}, %: {bar}",
    ]


def measure_kills(config: Generation) -> list[str]:
    """The whole command killed at random moments, given again, and compared with an undisturbed one."""
    frames = 46 if config.quick else LENGTHS[-1]
    with tempfile.TemporaryDirectory(prefix="nuwa-kills-") as folder:
        return generation_kills.report(_settings(config, frames), Path(folder), say)


def measure_memory(config: Generation) -> list[str]:
    """The whole command at two levels and at three."""
    lengths = config.lengths if config.quick else (config.lengths[1], config.lengths[-1])
    with tempfile.TemporaryDirectory(prefix="nuwa-memory-") as folder:
        settings = _settings(config, lengths[-1])
        return generation_memory.report(generation_memory.measure(settings, lengths, Path(folder), say))


def _settings(config: Generation, frames: int) -> Kills:
    """The command that is killed, and whose memory is measured."""
    return Kills(
        model=config.model.absolute(),
        frames=frames,
        windows=sum(windows_per_level(frames, LENGTH)),
        steps=config.sampler_steps,
        batch=config.windows_at_once if not config.quick else 1,
        kills=2 if config.quick else config.kills,
        seed=config.seed,
        device=config.device,
    )


def once(
    config: Generation,
    frames: int,
    overlap: int | None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    steps: int | None = None,
    words: Sequence[str] = (),
) -> Answer:
    """One video in a process of its own."""
    arguments = ["--model", config.model.absolute(), "--frames", frames, "--steps", steps or config.sampler_steps]
    arguments += ["--guidance", config.guidance, "--batch", config.windows_at_once, "--device", config.device, *words]
    arguments += [] if overlap is None else ["--overlap", overlap]
    arguments += [] if workers is None else ["--workers", workers]
    method = "diffusion over diffusion" if overlap is None else f"autoregression, o = {overlap}"
    name = f"{frames} frames, {method}{'' if workers is None else f', {workers} workers'}"
    answer = child("benchmarks.generate_once", arguments, name, threads)
    return answer | {"own_bytes": answer[_peak(config)] - answer["loaded_bytes"]}


def child(module: str, arguments: Sequence[object], name: str, threads: int | None = None) -> Answer:
    """The JSON line of one child process. Raises RuntimeError with the end of its log when it fails."""
    began = time.perf_counter()
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: exit {done.returncode}: {done.stderr.strip()[-600:]}")
    say(f"{name}: {time.perf_counter() - began:.0f} s")
    answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def say(what: str) -> None:
    """A line of progress."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main, Generation))
