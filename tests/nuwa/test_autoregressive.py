"""The baseline: windows counted against the formula, frames handed over bitwise, on a stub and on real modules."""

import math
from collections.abc import Sequence
from typing import cast

import pytest
import torch

from nuwa.generate.autoregressive import autoregressive, autoregressive_windows
from nuwa.generate.windows import Sampling, WindowResult, WindowSampler, WindowTask
from nuwa.hierarchy import NuwaError
from tests.nuwa import stack

PAPER = {16: (1, 1, 1), 226: (15, 15, 28), 256: (16, 17, 31), 1024: (64, 69, 127), 3376: (211, 225, 421)}
"""Windows of 16 frames at overlap 0, 1 and 8 by length of the video."""


class Recorder:
    """Stands in for a sampler: frame n of a window shows the number of its window and its place, given frames stay."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.tasks: list[WindowTask] = []

    def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[WindowResult]:
        (task,) = tasks
        self.tasks.append(task)
        made = task.window.index * 100.0 + torch.arange(self.length)  # l
        latents, video = made.expand(1, -1)[..., None, None].clone(), made.expand(3, -1)[..., None, None].clone()
        for position, frame in task.given.items():
            latents[:, position], video[:, position] = frame.latent, frame.pixels
        return [WindowResult(latents, video)]


def run(recorder: Recorder, frames: int, overlap: int) -> list[WindowResult]:
    prompts = [str(number) for number in range(frames)]
    return list(autoregressive(cast(WindowSampler, recorder), prompts, recorder.length, overlap))


@pytest.mark.parametrize("frames", PAPER)
def test_windows_of_the_paper(frames: int) -> None:
    assert tuple(len(autoregressive_windows(frames, 16, overlap)) for overlap in (0, 1, 8)) == PAPER[frames]


@pytest.mark.parametrize("frames", [1, 4, 5, 6, 9, 17, 64])
@pytest.mark.parametrize("overlap", [0, 1, 3, 4])
def test_windows_cover_the_video_and_none_is_idle(frames: int, overlap: int) -> None:
    windows = autoregressive_windows(frames, 5, overlap)
    assert len(windows) == 1 + max(0, math.ceil((frames - 5) / (5 - overlap)))
    made = [window.frames(5)[overlap if window.index else 0 :] for window in windows]
    assert [frame for new in made for frame in new][:frames] == list(range(frames))
    assert all(new[0] < frames for new in made)


@pytest.mark.parametrize("overlap", [0, 1, 2, 4])
def test_last_frames_of_a_window_are_the_first_of_the_next(overlap: int) -> None:
    recorder = Recorder(length=5)
    results = run(recorder, 13, overlap)
    latents = torch.cat([result.latents for result in results], dim=1)
    video = torch.cat([result.pixels for result in results if result.pixels is not None], dim=1)
    assert latents.shape == (1, 13, 1, 1)
    assert video.shape == (3, 13, 1, 1)
    assert recorder.tasks[0].given == {}
    for task in recorder.tasks[1:]:
        assert list(task.given) == list(range(overlap))
        for position, frame in task.given.items():
            number = task.window.first + position
            assert torch.equal(frame.latent, latents[:, number])
            assert torch.equal(frame.pixels, video[:, number])


def test_every_frame_has_its_own_prompt_and_the_tail_the_last() -> None:
    recorder = Recorder(length=5)
    run(recorder, 11, 1)
    assert [task.prompts for task in recorder.tasks] == [
        ("0", "1", "2", "3", "4"),
        ("4", "5", "6", "7", "8"),
        ("8", "9", "10", "10", "10"),
    ]
    assert all(task.window.stride == 1 for task in recorder.tasks)


def test_frames_of_real_modules_are_handed_over_bitwise() -> None:
    pipe = stack.build(shared=False)
    sampler = WindowSampler(pipe, Sampling(steps=2, guidance=2.0, seed=3, batch=1))
    results = list(autoregressive(sampler, ["a red star"] * 12, stack.LENGTH, 2))
    assert [result.latents.shape[1] for result in results] == [5, 3, 3, 1]
    assert results[0].latents.shape == (4, 5, 8, 8)
    again = list(autoregressive(sampler, ["a red star"] * 8, stack.LENGTH, 2))
    assert torch.equal(again[1].latents, results[1].latents)
    other = list(autoregressive(sampler, ["a red star"] * 5 + ["a blue circle jumps"] * 3, stack.LENGTH, 2))
    assert torch.equal(other[0].latents, results[0].latents)
    assert not torch.equal(other[1].latents, results[1].latents)


def test_overlaps_that_make_no_frame_are_refused() -> None:
    with pytest.raises(NuwaError, match="overlap 5 does not fit windows of 5 frames; give 0 to 4"):
        autoregressive_windows(10, 5, 5)
    with pytest.raises(NuwaError, match="overlap -1"):
        autoregressive_windows(10, 5, -1)
    with pytest.raises(NuwaError, match="0 frames is no video"):
        autoregressive_windows(0, 5, 1)
