"""Where batches of windows run: one interface for one device and for many workers, and the one device."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch

from nuwa.generate.windows import FixedFrame, WindowResult, WindowSampler, WindowTask
from nuwa.hierarchy import NuwaError, Window


class Executor(Protocol):
    """Runs batches of windows.

    batch: windows in a batch; in_flight: batches that run at once. Batches may come back in any order; what a window
    becomes depends on nothing but its task. `decode` may be called from other threads, up to `in_flight` at once.
    """

    @property
    def batch(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    def submit(self, tasks: Sequence[WindowTask], pixels: bool) -> None:
        """Take on a batch of windows of one level; `pixels` asks for their decoded frames too."""

    def collect(self) -> list[tuple[Window, WindowResult]]:
        """The windows of at least one submitted batch; blocks until one is done."""

    def withdraw(self) -> list[Window]:
        """Drop the batches that have not begun, and tell their windows; only what runs is still to be collected."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (b c l h w) to video (b 3 l H W) in [−1, 1], on the CPU."""

    def close(self) -> None:
        """Let go of workers; the executor is of no use afterwards."""


class LocalExecutor:
    """One device of this process: a batch runs when it is collected.

    NuwaError when a batch, or a chunk of the final video, does not fit into the memory of the device.
    """

    in_flight = 1

    def __init__(self, sampler: WindowSampler) -> None:
        self.sampler = sampler
        self._submitted: deque[tuple[tuple[WindowTask, ...], bool]] = deque()

    @property
    def batch(self) -> int:
        return self.sampler.sampling.batch

    def submit(self, tasks: Sequence[WindowTask], pixels: bool) -> None:
        self._submitted.append((tuple(tasks), pixels))

    def collect(self) -> list[tuple[Window, WindowResult]]:
        tasks, pixels = self._submitted.popleft()
        try:
            results = self.sampler.sample(tasks, pixels)
        except torch.OutOfMemoryError as error:
            raise self._does_not_fit(f"a batch of {self.batch} windows", "give a smaller batch") from error
        return [(task.window, result) for task, result in zip(tasks, results, strict=True)]

    def withdraw(self) -> list[Window]:
        dropped = [task.window for tasks, _ in self._submitted for task in tasks]
        self._submitted.clear()
        return dropped

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        try:
            return self.sampler.decode(latents).float().cpu()
        except torch.OutOfMemoryError as error:
            frames = latents.shape[0] * latents.shape[2]
            remedy = "give a smaller batch, fewer workers on it, or --tile-px; or end what else runs there"
            raise self._does_not_fit(f"decoding {frames} frames", remedy) from error

    def close(self) -> None:
        self._submitted.clear()

    def _does_not_fit(self, what: str, remedy: str) -> NuwaError:
        return NuwaError(f"{what} does not fit into the memory of {self.sampler.pipe.device}; {remedy}")


def alone(task: WindowTask) -> WindowTask:
    """The task with frames that are no slices of something larger: a slice would travel with all of it."""
    given = {n: FixedFrame(frame.latent.clone(), frame.pixels.clone()) for n, frame in task.given.items()}
    return WindowTask(task.window, task.prompts, given)
