"""One video in a process of its own; called by benchmarks.generation.

python -m benchmarks.generate_once --model PIPELINE --frames N [--overlap O | --workers K] … → one line of JSON

What it took from the loaded pipeline to the last frame: wall and processor time, calls of the denoiser, peak memory,
and the time inside denoiser and autoencoder. Loading and importing are not counted.
"""

import hashlib
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from benchmarks import measured
from benchmarks.processes import Process, descendants

if TYPE_CHECKING:
    import numpy as np

    from nuwa.generate.executors import Executor
    from nuwa.generate.pipeline import NuwaXLPipeline
    from nuwa.generate.windows import Sampling

SCENES = (
    "a magenta heart walks right on the beach",
    "a magenta heart jumps in the forest",
    "a red star spins in space",
)
SCENE_FRAMES = 28


@dataclass(frozen=True, kw_only=True)
class Once:
    """Make one video and say what it took."""

    model: Path
    """Pipeline folder."""
    frames: int
    """Length of the video."""
    overlap: int | None = None
    """Frames that neighbouring windows of autoregression share; without it, diffusion over diffusion."""
    workers: int | None = None
    """Ray workers; without it, this process."""
    steps: int = 4
    """Sampler steps per window."""
    guidance: float = 4.0
    """Classifier-free guidance scale."""
    batch: int = 8
    """Local windows at once; autoregression has one."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    bf16: bool = False
    """Autocast to bfloat16."""
    compiled: bool = False
    """torch.compile denoiser and autoencoder; the first video compiles and is not counted."""
    channels_last: bool = False
    """Weights of convolutions in channels-last memory."""
    shares: bool = False
    """Wait for the device around every call, so that times inside denoiser and autoencoder are true on a GPU."""


@dataclass
class Clock:
    """Calls of a function and the time inside them."""

    wait: Callable[[], None]
    calls: int = 0
    seconds: float = 0.0
    inside: list[float] = field(default_factory=list)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        def timed(*args: object, **named: object) -> object:
            self.wait()
            began = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.wait()
                self.calls += 1
                self.seconds += time.perf_counter() - began

        return timed


def prompts_of(frames: int) -> list[str]:
    """A story of a new scene every few seconds, the same scenes again and again."""
    return [SCENES[frame // SCENE_FRAMES % len(SCENES)] for frame in range(frames)]


def run(once: Once) -> dict[str, object]:
    """Load, generate, and say what it took."""
    import torch

    from nuwa.generate.pipeline_folder import load_pipeline
    from nuwa.generate.windows import Sampling

    pipe = load_pipeline(once.model).to(once.device)
    wait = torch.cuda.synchronize if once.shares and once.device == "cuda" else _nothing
    denoiser, autoencoder = _prepared(pipe, once, wait)
    batch = 1 if once.overlap is not None else once.batch
    sampling = Sampling(steps=once.steps, guidance=once.guidance, batch=batch, fps=pipe.config.train_fps)
    autocast = torch.autocast(once.device, torch.bfloat16) if once.bf16 else nullcontext()
    with autocast, closing(_executor(once, pipe, sampling)) as executor:
        if once.compiled or once.device == "cuda" or once.workers:
            _count(_frames(once, executor, pipe, min(once.frames, 226)))  # compiles, starts workers
        for clock in (denoiser, autoencoder):
            clock.calls, clock.seconds = 0, 0.0
        loaded_bytes = torch.cuda.memory_allocated() if once.device == "cuda" else resident_bytes()
        if once.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        measured.call(lambda: _count(_frames(once, executor, pipe, once.frames)))
        worker_peaks = [peak for peak in map(_peak_bytes, descendants_of_this()) if peak]
    return {
        **measured.last(),
        "denoiser_calls": denoiser.calls,
        "denoiser_s": denoiser.seconds,
        "autoencoder_s": autoencoder.seconds,
        "loaded_bytes": loaded_bytes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "worker_peak_bytes": max(worker_peaks, default=0),
        "device_peak_bytes": torch.cuda.max_memory_allocated() if once.device == "cuda" else 0,
    }


def resident_bytes() -> int:
    """Resident size of this process now."""
    kilobytes = re.findall(r"^VmRSS:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[0]
    return int(kilobytes) * 1024


def descendants_of_this() -> list[Process]:
    """Processes that this one has started."""
    import os

    return descendants(os.getpid())


def _peak_bytes(process: Process) -> int:
    """Largest resident size of a Ray worker so far; 0 for other processes."""
    if "ray::" not in process.command:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _nothing() -> None:
    pass


def _prepared(pipe: "NuwaXLPipeline", once: Once, wait: Callable[[], None]) -> tuple[Clock, Clock]:
    """Compile and lay out the networks as asked, and put clocks around the denoiser and around the autoencoder."""
    import torch

    denoiser, autoencoder = Clock(wait), Clock(wait)
    networks = [network for network in (pipe.denoiser_global, pipe.denoiser_local) if network is not None]
    for network in networks:
        if once.channels_last:
            network.to(memory_format=torch.channels_last)
        forward = torch.compile(network.forward) if once.compiled else network.forward
        network.forward = denoiser.around(forward)
    for name in ("encode", "decode"):
        method = getattr(pipe.vae, name)
        setattr(pipe.vae, name, autoencoder.around(torch.compile(method) if once.compiled else method))
    return denoiser, autoencoder


def _executor(once: Once, pipe: "NuwaXLPipeline", sampling: "Sampling") -> "Executor":
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.windows import WindowSampler

    if once.workers is None:
        return LocalExecutor(WindowSampler(pipe, sampling))
    from nuwa.generate.ray_windows import RayExecutor

    return RayExecutor(once.model, sampling, once.workers, device=once.device)


def _frames(once: Once, executor: "Executor", pipe: "NuwaXLPipeline", frames: int) -> "Iterator[np.ndarray]":
    from nuwa.generate.autoregressive import autoregressive
    from nuwa.generate.executors import LocalExecutor
    from nuwa.generate.long_video import frame_plan, generate_frames
    from nuwa.generate.streaming_decode import as_images

    prompts, length = prompts_of(frames), pipe.config.window_length
    if once.overlap is None:
        yield from generate_frames(frame_plan(prompts, length), executor)
        return
    assert isinstance(executor, LocalExecutor), "autoregression has one window at a time"
    for result in autoregressive(executor.sampler, prompts, length, once.overlap):
        assert result.pixels is not None, "pixels were asked for"
        yield from as_images(result.pixels)


def _count(frames: "Iterable[np.ndarray]") -> dict[str, object]:
    """How many frames there were, and a hash of them all."""
    digest, count = hashlib.sha256(), 0
    for frame in frames:
        digest.update(frame.tobytes())
        count += 1
    return {"frames": count, "sha256": digest.hexdigest()}


if __name__ == "__main__":
    print(json.dumps(run(tyro.cli(Once, args=sys.argv[1:]))))
