"""Where a training stands: means of its scalars over all windows, speed, and share of time spent waiting for data."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from nuwa.data.windows import WindowSample
from nuwa.train import workers
from nuwa.train.stages import Losses


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`step` of `steps` done, and scalars by name: means since the last report."""

    stage: str
    step: int
    steps: int
    scalars: dict[str, float]

    def line(self) -> str:
        """One line for a log, with the time left."""
        left_s = (self.steps - self.step) / max(self.scalars["steps_per_s"], 1e-9)
        shown = ("loss", "psnr", "grad_norm", "samples_per_s")
        numbers = "  ".join(f"{name} {self.scalars[name]:.4g}" for name in shown if name in self.scalars)
        return f"{self.stage}  step {self.step}/{self.steps}  {numbers}  {left_s / 60:.1f} min left"


Report = Callable[[Progress], None]


class Means:
    """Means of scalars by name over all that was added, in all workers.

    A value of several numbers, one per window, counts as many times: a tenth of the noise that one window had in one
    step and seven in another is the mean over eight windows, not over two steps.
    """

    def __init__(self) -> None:
        self._added: dict[str, list[torch.Tensor]] = {}

    def add(self, losses: Losses) -> None:
        """Take in numbers by name; they stay on their device until they are read."""
        for name, value in losses.items():
            self._added.setdefault(name, []).append(value.detach().flatten())

    def read(self) -> dict[str, float]:
        """Means by name, of the names that came up in any worker; then nothing is added yet. All workers call it."""
        numbers = {name: torch.cat(values).double() for name, values in self._added.items()}
        self._added = {}
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for part in _of_all_workers({name: (float(each.sum()), len(each)) for name, each in numbers.items()}):
            for name, (total, count) in part.items():
                sums[name], counts[name] = sums.get(name, 0.0) + total, counts.get(name, 0) + count
        return {name: sums[name] / counts[name] for name in sums}


def _of_all_workers(own: dict[str, tuple[float, int]]) -> list[dict[str, tuple[float, int]]]:
    """What every worker has, in their order."""
    if workers.count() == 1:
        return [own]
    found: list[dict[str, tuple[float, int]]] = [{} for _ in range(workers.count())]
    distributed.all_gather_object(found, own)
    return found


class Meter:
    """Means and speed between two reports; the clock stands while it is `paused`.

    samples_per_step: of all workers together
    """

    def __init__(self, stage: str, steps: int, samples_per_step: int) -> None:
        self.stage, self.steps, self.samples_per_step = stage, steps, samples_per_step
        self._means, self._count, self._waited_s, self._paused_s = Means(), 0, 0.0, 0.0
        self._since = time.perf_counter()

    def add(self, losses: Losses) -> None:
        """Take in the scalars of one step."""
        self._means.add(losses)
        self._count += 1

    def waiting(self, batches: Iterable[list[WindowSample]]) -> Iterator[list[WindowSample]]:
        """Pass on `batches`, and count the time until each of them is there."""
        began = time.perf_counter()
        for batch in batches:
            self._waited_s += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is no training: checkpoints and samples."""
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def read(self, step: int) -> Progress:
        """Means and speed since the last reading. All workers call it."""
        scalars, now = self._means.read(), time.perf_counter()
        seconds = max(now - self._since - self._paused_s, 1e-9)
        scalars["steps_per_s"] = self._count / seconds
        scalars["samples_per_s"] = scalars["steps_per_s"] * self.samples_per_step
        scalars["data_wait_frac"] = self._waited_s / seconds
        self._count, self._waited_s, self._paused_s, self._since = 0, 0.0, 0.0, now
        return Progress(stage=self.stage, step=step, steps=self.steps, scalars=scalars)
