"""The recursion: its result on a denoiser that knows the answer, and the promises of NUWA-XL Sec. 3.3 on a real one."""

import random
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.generate.long_video import decode_frames, generate_latents
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.windows import (
    FixedFrame,
    Sampling,
    WindowTask,
    conditioning,
    decode,
    noise_generator,
    sample_windows,
)
from nuwa.hierarchy import NuwaError, Window
from tests.nuwa import stack

SAMPLING = Sampling(steps=3, guidance=2.0, seed=7, batch=4)
PROMPTS = ["a red star"] * 15 + ["a blue circle jumps"] * 15  # 30 of the 65 frames of three levels of 5


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
    return generate_latents(pipe, PROMPTS, SAMPLING)


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
@pytest.mark.parametrize(("frames", "depth"), [(3, None), (17, None), (30, 3), (65, None)])
def test_every_frame_gets_its_own_prompt_and_neighbours(scheduler, frames: int, depth: int | None) -> None:
    oracle = Oracle(scheduler(clip_sample=False) if scheduler is DDIMScheduler else scheduler(), length=5)
    sampling = Sampling(steps=8, guidance=1.0, batch=3)
    prompts = [str(n) for n in range(frames)]
    latents = generate_latents(oracle, prompts, sampling, depth)
    expected = torch.arange(frames).sin()[None, :, None, None].expand_as(latents)
    torch.testing.assert_close(latents, expected, atol=2e-3, rtol=0)
    images = list(decode_frames(oracle, latents, overlap=2))
    assert len(images) == frames
    found = np.stack(images)[:, 0, 0, 0] / 127.5 - 1
    np.testing.assert_allclose(found, np.sin(np.arange(frames)), atol=0.01)


def test_a_frame_fixed_at_one_level_is_the_same_at_all_deeper_levels(pipe: NuwaXLPipeline) -> None:
    fixed: dict[int, torch.Tensor] = {}
    seen: list[Window] = []

    def check(window: Window, latents: torch.Tensor) -> None:
        seen.append(window)
        for position, frame in enumerate(window.frames(stack.LENGTH)):
            assert torch.equal(fixed.setdefault(frame, latents[:, position]), latents[:, position])

    latents = generate_latents(pipe, PROMPTS, SAMPLING, on_window=check)
    assert [sum(window.level == level for window in seen) for level in range(3)] == [1, 2, 8]
    assert all(torch.equal(latents[:, frame], fixed[frame]) for frame in range(30))


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_windows_changes_no_bit(pipe: NuwaXLPipeline, video: torch.Tensor, seed: int) -> None:
    draws = random.Random(seed)
    assert torch.equal(generate_latents(pipe, PROMPTS, SAMPLING, order=lambda window: draws.random()), video)


@pytest.mark.parametrize("batch", [1, 8])
def test_batch_size_changes_nothing_beyond_rounding(pipe: NuwaXLPipeline, video: torch.Tensor, batch: int) -> None:
    sampling = Sampling(steps=3, guidance=2.0, seed=7, batch=batch)
    torch.testing.assert_close(generate_latents(pipe, PROMPTS, sampling), video, atol=1e-5, rtol=0)


def test_a_shorter_crop_of_the_same_tree_begins_with_the_same_frames(pipe: NuwaXLPipeline, video: torch.Tensor) -> None:
    assert torch.equal(generate_latents(pipe, PROMPTS[:20], SAMPLING), video[:, :20])


def test_what_is_given_decides_what_is_made(pipe: NuwaXLPipeline, video: torch.Tensor) -> None:
    """Not vacuous: seed, prompt, given frame and stride each change the result."""
    tokens = pipe.encode_prompts(["a red star"]).expand(stack.LENGTH, -1, -1)
    frame = FixedFrame(torch.ones(4, 8, 8), torch.ones(3, 16, 16))
    window = Window(1, 0, 0, 4)
    results = [
        sample_windows(pipe, [task], sampling)
        for task, sampling in [
            (WindowTask(window, tokens, {0: frame}), SAMPLING),
            (WindowTask(window, tokens, {}), SAMPLING),
            (WindowTask(window, pipe.encode_prompts([""]).expand(stack.LENGTH, -1, -1), {0: frame}), SAMPLING),
            (WindowTask(Window(1, 0, 0, 1), tokens, {0: frame}), SAMPLING),
            (WindowTask(Window(1, 1, 0, 4), tokens, {0: frame}), SAMPLING),
            (WindowTask(window, tokens, {0: frame}), Sampling(steps=3, guidance=2.0, seed=8, batch=4)),
        ]
    ]
    for other in results[1:]:
        assert (other[:, :, 1:] - results[0][:, :, 1:]).abs().max() > 1e-4
    assert torch.equal(results[0][0, :, 0], frame.latent)


def test_condition_is_encoded_from_pixels_with_unknown_frames_zeroed(pipe: NuwaXLPipeline) -> None:
    tokens = torch.zeros(stack.LENGTH, 8, 8)
    frame = FixedFrame(torch.full((4, 8, 8), 3.0), torch.full((3, 16, 16), 0.5))
    task = WindowTask(Window(1, 0, 0, 1), tokens, {0: frame, 4: frame})
    with torch.no_grad():
        condition, given, mask = conditioning(pipe, [task])
        pixels = torch.zeros(1, 3, 5, 16, 16)
        pixels[:, :, [0, 4]] = 0.5
        assert torch.equal(condition, pipe.vae.encode(pixels).mode() * pipe.vae.config.scaling_factor)
    assert mask[0, 0, :, 0, 0].tolist() == [1, 0, 0, 0, 1]
    assert given[0, 0, :, 0, 0].tolist() == [3, 0, 0, 0, 3]


def test_noise_depends_on_seed_purpose_level_and_index_only() -> None:
    keys = [(0, "window", 1, 2), (1, "window", 1, 2), (0, "other", 1, 2), (0, "window", 2, 1), (0, "window", 12, 0)]
    draws = [torch.randn(4, generator=noise_generator(*key)) for key in keys]
    assert torch.equal(draws[0], torch.randn(4, generator=noise_generator(*keys[0])))
    assert all(not torch.equal(draws[0], other) for other in draws[1:])


def test_chunks_of_the_decode_cross_fade_where_they_meet(pipe: NuwaXLPipeline, video: torch.Tensor) -> None:
    images = np.stack(list(decode_frames(pipe, video, overlap=2)))
    assert images.shape == (30, 16, 16, 3)
    assert images.dtype == np.uint8
    first, second = (decode(pipe, video[None, :, start : start + stack.LENGTH])[0] for start in (0, 3))  # 3 l H W
    shared = [torch.lerp(first[:, 3 + n], second[:, n], (n + 1) / 3) for n in range(2)]
    expected = torch.stack([*first[:, :3].unbind(1), *shared, second[:, 2]], dim=1).permute(1, 2, 3, 0)
    np.testing.assert_allclose(images[:6] / 127.5 - 1, expected.numpy(), atol=0.6 / 127.5)
    assert (first[:, 3:] - second[:, :2]).abs().max() > 0.02


def test_bad_settings_say_what_to_change(pipe: NuwaXLPipeline) -> None:
    with pytest.raises(NuwaError, match="steps is 0"):
        Sampling(steps=0)
    with pytest.raises(NuwaError, match="fps is nan"):
        Sampling(fps=float("nan"))
    with pytest.raises(NuwaError, match="guidance is inf"):
        Sampling(guidance=float("inf"))
    with pytest.raises(NuwaError, match="noise schedule has 1000"):
        generate_latents(pipe, PROMPTS, Sampling(steps=1001))
    with pytest.raises(NuwaError, match="without prompts"):
        generate_latents(pipe, [], SAMPLING)
    with pytest.raises(NuwaError, match="depth of at least 3"):
        generate_latents(pipe, PROMPTS, SAMPLING, depth=2)
    with pytest.raises(NuwaError, match="overlap 5"):
        next(decode_frames(pipe, torch.zeros(4, 9, 8, 8), overlap=5))
