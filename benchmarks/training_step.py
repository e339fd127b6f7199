"""A training step of ours beside diffusers' UNet3DConditionModel, and the share of a training spent waiting for data.

python -m benchmarks.training_step [--quick] [--dataset runs/weights/dataset] [--device cuda]

Both networks have as many parameters (± 5 %) and run in the same plain loop: noise, forward, loss, backward, clipping,
AdamW. They take turns, in the other order every second round. Then the real loop trains the shipped model from footage
and from latents that were made once. On a GPU: use of a network of 310 million weights in fp32, bf16 and compiled.
Writes its section of benchmarks/RESULTS.md; with --quick it only prints.
"""

import dataclasses
import gc
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from benchmarks.denoiser_contenders import (
    LARGER,
    NUM_FRAMES,
    NUM_TOKENS,
    TOY,
    Contender,
    Inputs,
    Size,
    call_3d,
    call_ours,
    call_ours_per_frame,
    inputs_of,
    ours,
    peer_3d,
)
from benchmarks.denoisers import check_equal, lay_out_best
from benchmarks.results import RESULTS, table, verdict, write_section
from benchmarks.training_data import Waited, waited
from benchmarks.training_on_gpu import gpu_lines
from nuwa.hierarchy import NuwaError
from nuwa.train.components import new_scheduler
from pipelines import cli

MOST_WAITING = 0.05
"""Share of the time that a training from latents may wait for data."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure a training step, and the wait for data, and write the tables of benchmarks/RESULTS.md."""

    quick: bool = False
    """Two rounds of the toy size, one thread, few steps from data; prints and writes nothing."""
    rounds: int = 7
    """Measured rounds; the median of them counts. One more goes before."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda measures the use of a GPU instead, bf16 and compilation each by itself."""
    dataset: Path = Path("runs/weights/dataset")
    """Curated toon dataset; without one the wait for data is left out."""
    model: Path = Path("demo/weights/pipeline")
    """Pipeline folder that goes on training from it."""
    where: str = "num_frames >= 266"
    """Which of its runs."""
    steps: int = 24
    """Steps of each of these trainings; the first eighth does not count."""
    work: Path = Path("runs/benchmarks/training_step")
    """Folder for latents and run folders."""
    results: Path = RESULTS
    """File whose section is replaced."""


@dataclass(frozen=True)
class Cost:
    """One training step: CPU-seconds of all threads, seconds on the wall."""

    cpu_s: float
    wall_s: float


class PlainLoop:
    """What anybody writes: no averages, no checks, no logs."""

    def __init__(self, contender: Contender, given: Inputs) -> None:
        self.contender, self.given = contender, given
        self.name, self.network = contender.name, contender.module.train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-5, fused=True)
        self.alphas_cumprod = new_scheduler("epsilon").alphas_cumprod
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """Noise, forward, loss, backward, clipping, update."""
        z0 = self.given.sample
        eps = torch.randn(z0.shape, generator=self.generator)
        steps = torch.randint(len(self.alphas_cumprod), (len(z0),), generator=self.generator)
        abar = self.alphas_cumprod[steps].reshape(-1, 1, 1, 1, 1)
        noised = dataclasses.replace(self.given, sample=abar.sqrt() * z0 + (1.0 - abar).sqrt() * eps, step=steps)
        loss = nn.functional.mse_loss(self.contender.call(self.network, noised), eps)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def contenders_of(size: Size) -> list[Contender]:
    """The peer, ours of as many parameters with one prompt for the window, and with a prompt per frame."""
    mine = ours(size, size.beside_3d)
    group = [
        Contender("UNet3DConditionModel", peer_3d(size), call_3d),
        Contender("ours", mine, call_ours),
        Contender("ours, a prompt per frame", mine, call_ours_per_frame),
    ]
    check_equal(group)
    return group


def measure(loops: Sequence[PlainLoop], rounds: int) -> dict[str, Cost]:
    """Name → medians of a step; loops take turns, after a round that does not count."""
    taken: dict[str, list[Cost]] = {}
    for turn in range(rounds + 1):
        for loop in loops[:: -1 if turn % 2 else 1]:
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            loop.step()
            cost = Cost(time.process_time() - cpu, time.perf_counter() - wall)
            if turn:
                taken.setdefault(loop.name, []).append(cost)
    return {
        name: Cost(statistics.median(c.cpu_s for c in costs), statistics.median(c.wall_s for c in costs))
        for name, costs in taken.items()
    }


def rows_of(loops: Sequence[PlainLoop], costs: dict[str, Cost]) -> list[list[str]]:
    """Parameters, CPU-seconds and seconds of a step, each beside the peer's."""
    peer, rows = costs[loops[0].name], []
    for loop in loops:
        own, row = costs[loop.name], [loop.name, f"{loop.contender.parameters / 1e6:.2f}"]
        for mine, other in ((own.cpu_s, peer.cpu_s), (own.wall_s, peer.wall_s)):
            row += [f"{mine:.3f}", "—" if own is peer else verdict(mine / other, 1.0, at_most=True)]
        rows.append(row)
    return rows


def step_lines(size: Size, rounds: int, threads: Sequence[int]) -> list[str]:
    """The tables of one size."""
    given, lines = inputs_of(size, size.batch, torch.empty(0)), list[str]()
    group = contenders_of(size)
    torch.set_num_threads(threads[0])
    for contender in group[:2]:
        lay_out_best(contender, given, "cpu")
    loops = [PlainLoop(contender, given) for contender in group]
    for count in threads:
        torch.set_num_threads(count)
        shape = f"{len(given.sample)} × {NUM_FRAMES} × {size.latent_px}×{size.latent_px} latents"
        head = ["", "parameters, M", "CPU-seconds", "÷ peer", "seconds", "÷ peer"]
        lines += ["", f"{size.name}, {shape}, {count} thread{'s' * (count > 1)}:", ""]
        lines += table(head, rows_of(loops, measure(loops, rounds)))
    return lines


def data_lines(config: Benchmark) -> list[str]:
    """The wait for data, or why it was not measured."""
    if not (config.dataset / "runs").is_dir():
        return ["", f"The wait for data is left out: there is no dataset at {config.dataset}."]
    found = waited(config.dataset, config.model, config.where, 8 if config.quick else config.steps, config.work)
    head = ["mtd from", "seconds a step", "waiting for data", "steps"]
    return [
        "",
        f"The loop of pipelines.train on {config.model}, {found[0].batch} windows a step, one thread, no loader "
        "processes. Encoding in the step is not waiting: latents spare both.",
        "",
        *table(head, [_row(each) for each in found]),
    ]


def _row(of: Waited) -> list[str]:
    bar = verdict(of.data_wait_frac, MOST_WAITING, at_most=True) if of.from_latents else f"{of.data_wait_frac:.2f}"
    return ["latents" if of.from_latents else "footage", f"{of.step_s:.2f}", bar, str(of.steps)]


def _told(lines: list[str]) -> list[str]:
    """The same lines, printed as soon as they are there."""
    print("\n".join(lines), flush=True)
    return lines


def main(config: Benchmark) -> None:
    """Measure all sizes and the wait for data, or the use of a GPU, then write the section."""
    if config.rounds < 1 or config.steps < 8:
        raise NuwaError(f"rounds {config.rounds}, steps {config.steps}: at least 1 and 8 are needed")
    if config.device == "cuda":
        lines = _told(gpu_lines(config.quick))
    else:
        sizes = (TOY,) if config.quick else (TOY, LARGER)
        rounds, threads = (2, [1]) if config.quick else (config.rounds, [1, 2])
        lines = [
            f"diffusers {version('diffusers')}, fp32. Windows of {NUM_FRAMES} frames, {NUM_TOKENS} tokens. A step is "
            f"noise, forward, loss, backward, clipping and AdamW in a plain loop; medians of {rounds} rounds. The "
            "weights of every network lie in the memory format in which its forward step is faster."
        ]
        for size in sizes:
            lines += _told(step_lines(size, rounds, threads))
        torch.set_num_threads(1)
        lines += _told(data_lines(config))
    if not config.quick:
        command = shlex.join(["python", "-m", "benchmarks.training_step", *sys.argv[1:]])
        section = "training-step" if config.device == "cpu" else "training-step-cuda"
        write_section(section, "One training step", command, lines, config.results, config.device)


if __name__ == "__main__":
    sys.exit(cli.run(main, Benchmark))
