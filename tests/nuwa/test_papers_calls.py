"""Sequential denoiser evaluations: the table behind the paper's times, and the calls that the recursion makes."""

from collections import deque
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from diffusers import DDIMScheduler

from nuwa.evaluate.denoiser_calls import (
    autoregressive_calls,
    hierarchical_calls,
    most_speed_up,
    windows_per_level,
)
from nuwa.generate.autoregressive import autoregressive, autoregressive_windows
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.windows import Sampling, WindowResult, WindowSampler, WindowTask
from nuwa.hierarchy import Window

TABLE = {  # frames: windows of autoregression at overlap 0, 1, 8; of each level; in all; least depth against overlap 1
    16: ((1, 1, 1), [1], 1, 1.0),
    226: ((15, 15, 28), [1, 15], 16, 7.5),
    256: ((16, 17, 31), [1, 2, 17], 20, 5.7),
    1024: ((64, 69, 127), [1, 5, 69], 75, 23.0),
    3376: ((211, 225, 421), [1, 15, 225], 241, 75.0),
}


@pytest.mark.parametrize("frames", TABLE)
def test_table_of_sequential_evaluations(frames: int) -> None:
    by_overlap, levels, total, speed_up = TABLE[frames]
    assert tuple(autoregressive_calls(frames, 16, overlap, 1) for overlap in (0, 1, 8)) == by_overlap
    assert tuple(len(autoregressive_windows(frames, 16, overlap)) for overlap in (0, 1, 8)) == by_overlap
    assert windows_per_level(frames, 16) == levels
    assert hierarchical_calls(frames, 16, 1) == total
    assert most_speed_up(frames, 16) == pytest.approx(speed_up, abs=0.05)


@pytest.mark.parametrize("frames", TABLE)
def test_unlimited_workers_take_steps_times_depth(frames: int) -> None:
    assert hierarchical_calls(frames, 16, 50, workers=225) == 50 * len(TABLE[frames][1])
    assert hierarchical_calls(frames, 16, 50, batch=225) == 50 * len(TABLE[frames][1])


def test_one_saturated_device_does_more_work_than_autoregression() -> None:
    """7 % more at 3376 frames: the gain is in what may run at once, not in how much there is to do."""
    assert hierarchical_calls(3376, 16, 1) / autoregressive_calls(3376, 16, 1, 1) == pytest.approx(1.07, abs=0.005)


STEPS = 2


class CountingPipe:
    """A pipeline of latents of one pixel whose denoiser only counts: its calls, and the windows in each."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.scheduler = DDIMScheduler(clip_sample=False)
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(window_length=16, height=1, width=1)
        self.vae = SimpleNamespace(
            config=SimpleNamespace(scaling_factor=1.0),
            encode=lambda video: SimpleNamespace(mode=lambda: video),
            decode=lambda latents: latents,
        )

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def denoiser_at(self, level: int):
        return self._predict

    def _predict(self, sample, timestep, tokens, condition, mask, stride, added_time_ids):
        self.rows.append(len(sample))
        return torch.zeros_like(sample)


def sampler_of(pipe: CountingPipe, batch: int) -> WindowSampler:
    return WindowSampler(cast(NuwaXLPipeline, pipe), Sampling(steps=STEPS, guidance=1.0, batch=batch))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("frames", TABLE)
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_calls_of_the_recursion_are_those_of_the_formula(frames: int, batch: int) -> None:
    pipe = CountingPipe()
    latents = generate_latents(frame_plan(["a"] * frames, 16), LocalExecutor(sampler_of(pipe, batch)))
    assert latents.shape[1] == frames
    assert len(pipe.rows) == hierarchical_calls(frames, 16, STEPS, batch)
    _, *local = TABLE[frames][1]
    assert sum(pipe.rows) == STEPS * (1 + sum(-(-count // batch) * batch for count in local)), "padded to the batch"


@pytest.mark.parametrize("frames", TABLE)
@pytest.mark.parametrize("overlap", [0, 1, 8])
def test_calls_of_autoregression_are_those_of_the_formula(frames: int, overlap: int) -> None:
    pipe = CountingPipe()
    results = list(autoregressive(sampler_of(pipe, 1), ["a"] * frames, 16, overlap))
    assert sum(result.latents.shape[1] for result in results) == frames
    assert pipe.rows == [1] * autoregressive_calls(frames, 16, overlap, STEPS)


class Workers(LocalExecutor):
    """So many workers that each take one batch at a time: everything they were given is done when one is waited for."""

    def __init__(self, sampler: WindowSampler, workers: int) -> None:
        super().__init__(sampler)
        self.in_flight = workers
        self.level_of_batches: list[int] = []
        self.most_waiting = 0
        self._given = deque[Sequence[WindowTask]]()

    def submit(self, tasks: Sequence[WindowTask], pixels: bool) -> None:
        super().submit(tasks, pixels)
        self._given.append(tasks)
        self.most_waiting = max(self.most_waiting, len(self._given))
        self.level_of_batches.append(tasks[0].window.level)

    def collect(self) -> list[tuple[Window, WindowResult]]:
        self._given.popleft()
        return super().collect()


@pytest.mark.parametrize("frames", [226, 1024, 3376])
@pytest.mark.parametrize(("workers", "batch"), [(2, 1), (2, 8), (4, 4)])
def test_rounds_of_several_workers_are_those_of_the_formula(frames: int, workers: int, batch: int) -> None:
    """Every level comes in whole rounds of all workers, so that none of them waits for what another could do."""
    executor = Workers(sampler_of(CountingPipe(), batch), workers)
    generate_latents(frame_plan(["a"] * frames, 16), executor)
    batches = [executor.level_of_batches.count(level) for level in range(len(TABLE[frames][1]))]
    assert batches == [-(-count // batch) for count in TABLE[frames][1]]
    assert STEPS * sum(-(-count // workers) for count in batches) == hierarchical_calls(
        frames, 16, STEPS, batch, workers
    )
    assert executor.most_waiting >= workers
