"""t(B): time of one denoiser call on B windows; called by benchmarks.generation.

python -m benchmarks.batch_curve --model PIPELINE --sizes 1 2 4 … → one line of JSON: B → seconds of a call

Rounds go through all sizes in turn, so that a machine that slows down slows all of them; the median counts.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class BatchCurve:
    """Time denoiser calls of several batch sizes."""

    model: Path
    """Pipeline folder."""
    sizes: tuple[int, ...]
    """Windows in a call."""
    rounds: int = 5
    """How often each size is measured, after one call that is not."""
    device: Literal["cpu", "cuda"] = "cpu"
    bf16: bool = False
    compiled: bool = False
    channels_last: bool = False


def run(curve: BatchCurve) -> dict[int, float]:
    """Batch size → seconds of one call."""
    import torch

    from nuwa.generate.pipeline_folder import load_pipeline

    pipe = load_pipeline(curve.model).to(curve.device)
    denoiser = pipe.denoiser_at(1)
    if curve.channels_last:
        denoiser.to(memory_format=torch.channels_last)
    call = torch.compile(denoiser) if curve.compiled else denoiser
    wait = torch.cuda.synchronize if curve.device == "cuda" else _nothing
    side = 2 ** (len(pipe.vae.config.down_block_types) - 1)
    shape = (denoiser.in_channels, pipe.config.window_length, pipe.config.height // side, pipe.config.width // side)
    token = pipe.encode_prompts(["a red star jumps in space"])[0]  # n d
    autocast = torch.autocast(curve.device, torch.bfloat16) if curve.bf16 else nullcontext()
    times: dict[int, list[float]] = {size: [] for size in curve.sizes}
    with torch.no_grad(), autocast:
        for turn in range(curve.rounds + 1):
            for size in curve.sizes:
                sample = torch.zeros(size, *shape, device=curve.device)
                mask, steps = torch.ones_like(sample[:, :1]), torch.full((size,), 500, device=curve.device)
                tokens = token.expand(size, shape[1], -1, -1)
                taken = _seconds(lambda: call(sample, steps, tokens, sample, mask, steps, None), wait)  # noqa: B023
                if turn:
                    times[size].append(taken)
    return {size: statistics.median(found) for size, found in times.items()}


def _seconds(call: Callable[[], object], wait: Callable[[], None]) -> float:
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def _nothing() -> None:
    pass


if __name__ == "__main__":
    print(json.dumps(run(tyro.cli(BatchCurve, args=sys.argv[1:]))))
