"""The recursion: its result on a denoiser that knows the answer, and the promises of NUWA-XL Sec. 3.3 on a real one."""

import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import VideoPlan, frame_plan, generate_frames, generate_latents
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.streaming_decode import decode_frames
from nuwa.generate.windows import Sampling, WindowResult, WindowSampler, WindowTask
from nuwa.hierarchy import NuwaError, Window
from tests.nuwa import stack

SAMPLING = Sampling(steps=3, guidance=2.0, seed=7, batch=4)
PROMPTS = ["a red star"] * 15 + ["a blue circle jumps"] * 15  # 30 of the 65 frames of three levels of 5
PLAN = frame_plan(PROMPTS, stack.LENGTH)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> NuwaXLPipeline:
    return stack.build()


@pytest.fixture(scope="module")
def video(pipe: NuwaXLPipeline) -> torch.Tensor:
    return generate_latents(PLAN, executor(pipe))


def executor(pipe: NuwaXLPipeline, sampling: Sampling = SAMPLING) -> LocalExecutor:
    return LocalExecutor(WindowSampler(pipe, sampling))


class Oracle:
    """Stands in for a pipeline whose denoiser knows every frame: frame n has latent and pixels sin(n)."""

    def __init__(self, scheduler: SchedulerMixin, length: int) -> None:
        self.scheduler, self.device, self.calls = scheduler, torch.device("cpu"), 0
        self.config = SimpleNamespace(window_length=length, height=4, width=4)
        self.vae = SimpleNamespace(
            config=SimpleNamespace(scaling_factor=0.5),
            encode=lambda video: SimpleNamespace(mode=lambda: 2.0 * video[:, :, :, ::2, ::2]),
            decode=lambda latents: 0.5 * latents.repeat_interleave(2, 3).repeat_interleave(2, 4),
        )

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        return torch.tensor([[[float(prompt or 0)]] for prompt in prompts])

    def denoiser_at(self, level: int):
        return self.predict

    def predict(self, sample, timestep, tokens, condition, mask, stride, added_time_ids):
        """The eps that leads to the known frames; checks on the way that what is given is right."""
        self.calls += 1
        z0 = tokens[:, None, :, 0, :1].sin()[..., None].expand_as(sample).float()  # b c l h w
        torch.testing.assert_close(condition, z0 * mask, atol=1e-4, rtol=0)
        abar = self.scheduler.alphas_cumprod[timestep].reshape(-1, 1, 1, 1, 1)
        return (sample - abar.sqrt() * z0) / (1 - abar).sqrt()


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize(("frames", "depth"), [(1, None), (3, None), (17, None), (30, 3), (65, None)])
def test_every_frame_gets_its_own_prompt_and_neighbours(scheduler, frames: int, depth: int | None) -> None:
    oracle = Oracle(scheduler(clip_sample=False) if scheduler is DDIMScheduler else scheduler(), length=5)
    sampling = Sampling(steps=8, guidance=1.0, batch=3)
    plan = frame_plan([str(n) for n in range(frames)], 5, depth)
    latents = generate_latents(plan, executor(oracle, sampling))
    expected = torch.arange(frames).sin()[None, :, None, None].expand_as(latents)
    torch.testing.assert_close(latents, expected, atol=2e-3, rtol=0)
    images = list(generate_frames(plan, executor(oracle, sampling)))
    assert len(images) == frames
    found = np.stack(images)[:, 0, 0, 0] / 127.5 - 1
    np.testing.assert_allclose(found, np.sin(np.arange(frames)), atol=0.01)


class Spy(LocalExecutor):
    """Tells what ran, in batches."""

    def __init__(self, sampler: WindowSampler) -> None:
        super().__init__(sampler)
        self.tasks: list[list[WindowTask]] = []
        self.results: dict[Window, WindowResult] = {}

    def submit(self, tasks: Sequence[WindowTask], pixels: bool) -> None:
        self.tasks.append(list(tasks))
        super().submit(tasks, pixels)

    def collect(self) -> list[tuple[Window, WindowResult]]:
        done = super().collect()
        self.results |= dict(done)
        return done


def test_a_frame_fixed_at_one_level_is_the_same_at_all_deeper_levels(pipe: NuwaXLPipeline) -> None:
    spy = Spy(WindowSampler(pipe, SAMPLING))
    latents = generate_latents(PLAN, spy)
    fixed: dict[int, torch.Tensor] = {}
    for window, result in sorted(spy.results.items()):  # global first
        for position, frame in enumerate(window.frames(stack.LENGTH)):
            assert torch.equal(fixed.setdefault(frame, result.latents[:, position]), result.latents[:, position])
    assert [sum(window.level == level for window in spy.results) for level in range(3)] == [1, 2, 8]
    assert all(torch.equal(latents[:, frame], fixed[frame]) for frame in range(30))


class OutOfOrder(LocalExecutor):
    """Three batches at once that come back in any order."""

    in_flight = 3

    def __init__(self, sampler: WindowSampler, seed: int) -> None:
        super().__init__(sampler)
        self._draws = random.Random(seed)

    def collect(self) -> list[tuple[Window, WindowResult]]:
        self._submitted.rotate(self._draws.randrange(len(self._submitted)))
        return super().collect()


@pytest.mark.parametrize("seed", [0, 1])
def test_order_and_number_of_workers_change_no_bit(pipe: NuwaXLPipeline, video: torch.Tensor, seed: int) -> None:
    assert torch.equal(generate_latents(PLAN, OutOfOrder(WindowSampler(pipe, SAMPLING), seed)), video)


@pytest.mark.parametrize("batch", [1, 8])
def test_batch_size_changes_nothing_beyond_rounding(pipe: NuwaXLPipeline, video: torch.Tensor, batch: int) -> None:
    sampling = Sampling(steps=3, guidance=2.0, seed=7, batch=batch)
    torch.testing.assert_close(generate_latents(PLAN, executor(pipe, sampling)), video, atol=1e-5, rtol=0)


def test_a_shorter_crop_of_the_same_tree_begins_with_the_same_frames(pipe: NuwaXLPipeline, video: torch.Tensor) -> None:
    shorter = generate_latents(frame_plan(PROMPTS[:20], stack.LENGTH), executor(pipe))
    assert torch.equal(shorter, video[:, :20])


def test_frames_are_those_of_the_whole_video_decoded(pipe: NuwaXLPipeline, video: torch.Tensor) -> None:
    decode = executor(pipe).decode
    images = list(generate_frames(PLAN, executor(pipe)))
    np.testing.assert_array_equal(np.stack(images), np.stack(list(decode_frames(decode, video, stack.LENGTH))))


def test_bad_plans_say_what_to_change(pipe: NuwaXLPipeline) -> None:
    with pytest.raises(NuwaError, match="noise schedule has 1000"):
        generate_latents(PLAN, executor(pipe, Sampling(steps=1001)))
    with pytest.raises(NuwaError, match="without prompts"):
        frame_plan([], 5)
    with pytest.raises(NuwaError, match="depth of at least 3"):
        frame_plan(PROMPTS, 5, depth=2)
    with pytest.raises(NuwaError, match="prompts for 2 levels and the video has 3"):
        VideoPlan((tuple(PROMPTS),) * 2, 5, 3)
    with pytest.raises(NuwaError, match="levels have 29 and 30 prompts"):
        VideoPlan((tuple(PROMPTS), tuple(PROMPTS[1:]), tuple(PROMPTS)), 5)
