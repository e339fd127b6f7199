"""One denoiser step of NUWA-XL beside diffusers' two video U-Nets at equal parameters, shape and dtype, in one run.

python -m benchmarks.denoisers [--quick] [--device cuda --dtype bf16 --compile --batch 8]

Ours takes condition, mask and, in one row, a prompt per frame, which the other two cannot; the size of all three is
that of one number of parameters (± 5 %), with the same ratio of widths. Networks take turns, in the other order every
second round. Writes its section of benchmarks/RESULTS.md; with --quick it only prints.
"""

import gc
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
    call_spatio_temporal,
    inputs_of,
    ours,
    peer_3d,
    peer_spatio_temporal,
)
from benchmarks.results import RESULTS, table, verdict, write_section
from nuwa.hierarchy import NuwaError
from pipelines import cli

TOLERANCE = 0.05
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure one step of the denoisers and write the tables of benchmarks/RESULTS.md."""

    quick: bool = False
    """Few rounds, one thread, the toy size unless another is asked for; prints and writes nothing."""
    size: Literal["toy", "larger"] | None = None
    """One size; by default both."""
    rounds: int = 5
    """Measured rounds; the median of them counts. One more goes before."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the step runs: seconds of all CPU threads together on a CPU, seconds between two waits on a GPU."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and inputs."""
    compile: bool = False
    """Compile every network."""
    batch: int | None = None
    """Windows of one step; by default those of the size."""
    results: Path = RESULTS
    """File whose section is replaced."""


def groups(size: Size, config: Benchmark) -> list[list[Contender]]:
    """For each peer: itself, ours of as many parameters with one prompt, and with a prompt per frame."""
    beside = {
        "UNet3DConditionModel": (peer_3d(size), call_3d, size.beside_3d),
        "UNetSpatioTemporalConditionModel": (
            peer_spatio_temporal(size),
            call_spatio_temporal,
            size.beside_spatio_temporal,
        ),
    }
    found = []
    for name, (peer, call, channels) in beside.items():
        mine = placed(ours(size, channels), config)
        group = [
            Contender(name, placed(peer, config), call),
            Contender("ours", mine, call_ours),
            Contender("ours, a prompt per frame", mine, call_ours_per_frame),
        ]
        check_equal(group)
        found.append(group)
    return found


def placed(module: nn.Module, config: Benchmark) -> nn.Module:
    """The network with the type, on the device and compiled as asked for."""
    module = module.to(config.device)
    if config.dtype != "fp32":
        module = module.to(DTYPES[config.dtype])
    return torch.compile(module) if config.compile else module  # type: ignore[return-value]


def lay_out(module: nn.Module, channels_last: bool) -> None:
    """Weights of convolutions in channels-last memory, or as diffusers makes them. Values stay."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in module.parameters():
        if weight.ndim in formats:
            layout = formats[weight.ndim] if channels_last else torch.contiguous_format
            weight.data = weight.data.contiguous(memory_format=layout)


def lay_out_best(contender: Contender, given: Inputs, device: str) -> str:
    """Give the network the memory format in which its forward step is faster; the format's name."""
    cost_s = {}
    for channels_last in (False, True):
        lay_out(contender.module, channels_last)
        forward_step(contender, given)
        cost_s[channels_last] = min(seconds(lambda: forward_step(contender, given), device) for _ in range(2))
    channels_last = cost_s[True] < cost_s[False]
    lay_out(contender.module, channels_last)
    return "channels-last" if channels_last else "contiguous"


def check_equal(group: Sequence[Contender]) -> None:
    """Raise when ours has not the peer's number of parameters."""
    peer, mine = group[0].parameters, group[1].parameters
    assert abs(mine / peer - 1) <= TOLERANCE, f"{mine} parameters beside {peer} of {group[0].name}"


def seconds(work: Callable[[], object], device: str) -> float:
    """CPU-seconds of all threads, or the time between two waits for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    work()
    return time.process_time() - began


@torch.no_grad()
def forward_step(contender: Contender, given: Inputs) -> None:
    """What a sampler does."""
    contender.call(contender.module.eval(), given)


def training_step(contender: Contender, given: Inputs) -> None:
    """Forward and backward; optimisers cost the same for the same number of parameters."""
    contender.call(contender.module.train(), given).float().square().mean().backward()
    contender.module.zero_grad(set_to_none=True)


STEPS: Mapping[str, Callable[[Contender, Inputs], None]] = {"forward": forward_step, "training": training_step}


def measure(group: Sequence[Contender], given: Inputs, rounds: int, device: str) -> dict[tuple[str, str], float]:
    """(name, kind of step) → median seconds; networks take turns, after a round that does not count."""
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for contender in group[:: -1 if turn % 2 else 1]:
            for kind, step in STEPS.items():
                gc.collect()
                cost_s = seconds(partial(step, contender, given), device)
                if turn:
                    taken.setdefault((contender.name, kind), []).append(cost_s)
    return {key: statistics.median(costs) for key, costs in taken.items()}


def report(
    group: Sequence[Contender], layouts: Sequence[str], cost_s: Mapping[tuple[str, str], float]
) -> list[list[str]]:
    """A row per network: parameters, layout of its weights, seconds of both steps and their ratio to the peer's."""
    peer = group[0].name
    rows = []
    for contender, layout in zip(group, layouts, strict=True):
        row = [contender.name, f"{contender.parameters / 1e6:.2f}", layout]
        for kind in STEPS:
            own, other = cost_s[contender.name, kind], cost_s[peer, kind]
            row += [f"{own:.3f}", "—" if contender.name == peer else verdict(own / other, 1.0, at_most=True)]
        rows.append(row)
    return rows


def lines_of(size: Size, config: Benchmark, threads: Sequence[int]) -> list[str]:
    """The tables of one size."""
    like = torch.empty(0, device=config.device, dtype=DTYPES[config.dtype])
    lines, given = [], inputs_of(size, config.batch or size.batch, like)
    head = ["", "parameters, M", "weights", "forward, s", "÷ peer", "training, s", "÷ peer"]
    for group in groups(size, config):
        torch.set_num_threads(threads[0])
        peer, mine = (lay_out_best(contender, given, config.device) for contender in group[:2])
        layouts = [peer, mine, mine]
        for count in threads:
            torch.set_num_threads(count)
            cost_s = measure(group, given, 2 if config.quick else config.rounds, config.device)
            shape = f"{len(given.sample)} × {NUM_FRAMES} × {size.latent_px}×{size.latent_px} latents"
            where = "" if config.device == "cuda" else f", {count} thread{'s' * (count > 1)}"
            lines += ["", f"{size.name}, {shape}{where}:", "", *table(head, report(group, layouts, cost_s))]
    return lines


def main(config: Benchmark) -> None:
    """Measure all sizes, on a CPU at one and at two threads, then write the section."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise NuwaError("device cuda: this machine offers no CUDA device; use --device cpu")
    if config.rounds < 1 or (config.batch is not None and config.batch < 1):
        raise NuwaError(f"rounds {config.rounds}, batch {config.batch}: both must be at least 1")
    clock = "CPU-seconds of all threads together" if config.device == "cpu" else "seconds"
    lines = [
        f"diffusers {version('diffusers')}, {config.device}, {config.dtype}{', compiled' * config.compile}. Windows of "
        f"{NUM_FRAMES} frames, {NUM_TOKENS} tokens. Median {clock}; training is forward and backward. The weights of "
        "every network lie in the memory format in which its forward step is faster."
    ]
    threads = [1] if config.quick or config.device == "cuda" else [1, 2]
    wanted = config.size or ("toy" if config.quick else None)
    for size in (TOY, LARGER):
        if wanted in (None, size.name):
            lines += lines_of(size, config, threads)
    print("\n".join(lines))
    if not config.quick:
        command = shlex.join(["python", "-m", "benchmarks.denoisers", *sys.argv[1:]])
        section = "denoisers" if config.device == "cpu" else f"denoisers-{config.device}"
        write_section(section, "One denoiser step", command, lines, config.results, config.device)


if __name__ == "__main__":
    sys.exit(cli.run(main, Benchmark))
