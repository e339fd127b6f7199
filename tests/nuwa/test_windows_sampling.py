"""One batch of windows on real networks: what it is told, what is kept, and what its companions may change: nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.generate.windows import (
    FixedFrame,
    Sampling,
    WindowResult,
    WindowSampler,
    WindowTask,
    check_given,
    conditioning,
    fill_batch,
    noise_generator,
)
from nuwa.hierarchy import NuwaError, Window
from tests.nuwa import stack

DEMO = Path(__file__).parents[2] / "demo" / "weights" / "pipeline"
SAMPLERS = ("trained", "ddpm", "ddim", "dpm++", "unipc")
SIZES: dict[str, Any] = {"window_length": stack.LENGTH, "height": 16, "width": 16}
PROMPTS = ("a red star",) * 3 + ("a blue circle",) * 2


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
def demo() -> NuwaXLPipeline:
    return load_pipeline(DEMO)


def frame_of(pipe: NuwaXLPipeline, seed: int) -> FixedFrame:
    generator = torch.Generator().manual_seed(seed)
    height, width, factor = pipe.config.height, pipe.config.width, pipe.vae.downsample_factor
    latent = torch.randn(4, height // factor, width // factor, generator=generator)
    return FixedFrame(latent, torch.rand(3, height, width, generator=generator) * 2 - 1)


def task_of(pipe: NuwaXLPipeline, index: int, positions: tuple[int, ...] = (0, 4)) -> WindowTask:
    window = Window(1, index, 4 * index, 1)
    return WindowTask(window, PROMPTS, {position: frame_of(pipe, 10 * index + position) for position in positions})


def same(one: WindowResult, other: WindowResult) -> bool:
    assert one.pixels is not None
    assert other.pixels is not None
    return torch.equal(one.latents, other.latents) and torch.equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("condition", ["pixels", "latents"])
def test_companions_in_a_batch_change_no_bit(pipe: NuwaXLPipeline, name: Any, condition: Any) -> None:
    """Alone and padded, first or last, beside windows with other given frames: bitwise the same latents and pixels."""
    sampler = WindowSampler(pipe, Sampling(steps=3, guidance=2.0, batch=3, sampler=name, condition=condition))
    tasks = [task_of(pipe, 0), task_of(pipe, 1, (2,)), task_of(pipe, 2, ()), task_of(pipe, 3, (0, 1, 3, 4))]
    alone = [sampler.sample([task], pixels=True)[0] for task in tasks]
    assert all(map(same, sampler.sample(tasks[:3], pixels=True), alone[:3]))
    reverse = sampler.sample(tasks[::-1], pixels=True)  # two batches: three windows, and one padded
    assert all(map(same, reverse, alone[::-1]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_given_frames_come_out_bitwise_wherever_they_are(pipe: NuwaXLPipeline, name: Any) -> None:
    sampler = WindowSampler(pipe, Sampling(steps=4, guidance=2.0, batch=2, sampler=name))
    tasks = [task_of(pipe, 0, (1, 3)), task_of(pipe, 1, (4,))]
    for task, result in zip(tasks, sampler.sample(tasks, pixels=False), strict=True):
        assert result.pixels is None
        assert result.latents.isfinite().all()
        for position, frame in task.given.items():
            assert torch.equal(result.latents[:, position], frame.latent)


def ends_given(demo: NuwaXLPipeline, index: int) -> WindowTask:
    """A window of the trained model with its ends given."""
    given = {0: frame_of(demo, index), 15: frame_of(demo, 9)}
    return WindowTask(Window(1, index, 15 * index, 1), ("a red circle bounces",) * 16, given)


def assert_within_1e_5(made: torch.Tensor, expected: torch.Tensor) -> None:
    """Of the largest value: that is what float32 rounds by."""
    torch.testing.assert_close(made, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_batch_size_changes_the_trained_model_by_less_than_1e_5(demo: NuwaXLPipeline) -> None:
    """PAPERS: within 1e-5 across batch sizes. What is left is the rounding of the denoiser's kernels."""
    tasks = [ends_given(demo, n) for n in range(2)]
    one, four = (WindowSampler(demo, Sampling(steps=4, batch=size)).sample(tasks, pixels=False) for size in (1, 4))
    for alone, together in zip(one, four, strict=True):
        assert_within_1e_5(together.latents, alone.latents)


@pytest.mark.slow  # two threads on a core that is busy wait for each other at every step
def test_the_number_of_threads_changes_the_trained_model_by_less_than_1e_5(demo: NuwaXLPipeline) -> None:
    task, threads, made = ends_given(demo, 0), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            made += WindowSampler(demo, Sampling(steps=4, batch=1)).sample([task], pixels=False)
    finally:
        torch.set_num_threads(threads)
    assert_within_1e_5(made[0].latents, made[1].latents)


def test_the_condition_does_not_depend_on_the_batch_at_all(demo: NuwaXLPipeline) -> None:
    """Why batch sizes once differed by 6e-4: on black frames the encoder magnifies rounding.

    Its norms divide by the spread within a frame, and a black one has next to none. In a batch, whose kernels round in
    another order than for one window, that shows; so windows are encoded one by one. In float64 the two agree: it is
    rounding and nothing else.
    """
    tasks = [
        WindowTask(Window(1, n, 0, 1), ("",) * 16, {0: frame_of(demo, n), 15: frame_of(demo, 9)}) for n in range(4)
    ]
    together = conditioning(demo, tasks)[0]
    for row, task in enumerate(tasks):
        assert torch.equal(conditioning(demo, [task])[0][0], together[row])
    video = torch.zeros(4, 3, 16, 32, 32)
    for row, task in enumerate(tasks):
        video[row, :, 0], video[row, :, 15] = task.given[0].pixels, task.given[15].pixels
    full = torch.stack([task.given[0].pixels for task in tasks])[:, :, None].expand(-1, -1, 16, -1, -1).contiguous()
    with torch.no_grad():
        apart = {
            black: (demo.vae.encode(clip).mode() - torch.cat([demo.vae.encode(row[None]).mode() for row in clip])).abs()
            for black, clip in ((True, video), (False, full))
        }
        double = load_pipeline(DEMO).vae.double()
        exact = double.encode(video.double()).mode()
        alone = torch.cat([double.encode(row[None].double()).mode() for row in video])
    assert apart[False].max() < 3e-5
    assert apart[True][:, :, [0, 15]].max() < 3e-5
    assert (exact - alone).abs().max() < 1e-11


def test_rounding_of_one_denoiser_call_is_all_that_a_batch_size_changes(pipe: NuwaXLPipeline) -> None:
    """In float64 a row of a batch is the same call alone, to 1e-13; in float32 to 1e-6."""
    zt, tokens, condition = torch.randn(3, 4, 5, 8, 8), torch.randn(3, 5, 8, 8), torch.randn(3, 4, 5, 8, 8)
    steps, mask, stride = torch.tensor([999, 500, 3]), torch.ones(3, 1, 5, 8, 8), torch.tensor([1.0, 4.0, 16.0])
    inputs = (zt, steps, tokens, condition, mask, stride, torch.rand(3, 3))
    for dtype, bound in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        network = stack.build().denoiser_global.to(dtype)
        call = [value.to(dtype) if value.is_floating_point() else value for value in inputs]
        with torch.no_grad():
            together = network(*call)
            alone = torch.cat([network(*(value[row : row + 1] for value in call)) for row in range(3)])
        assert (together - alone).abs().max() < bound * together.abs().max()


def test_condition_is_encoded_from_pixels_with_unknown_frames_zeroed(pipe: NuwaXLPipeline) -> None:
    """NUWA-XL Sec. 3.2, at any positions."""
    task = WindowTask(Window(1, 0, 0, 1), PROMPTS, {1: frame_of(pipe, 1), 4: frame_of(pipe, 4)})
    with torch.no_grad():
        condition, given, mask = conditioning(pipe, [task])
        pixels = torch.zeros(1, 3, 5, 16, 16)
        for position, frame in task.given.items():
            pixels[0, :, position] = frame.pixels
        assert torch.equal(condition, pipe.vae.encode(pixels).mode() * pipe.vae.config.scaling_factor)
    assert mask[0, 0, :, 0, 0].tolist() == [0, 1, 0, 0, 1]
    expected = torch.zeros(1, 4, 5, 8, 8)
    for position, frame in task.given.items():
        expected[0, :, position] = frame.latent
    assert torch.equal(given, expected)


def test_the_shortcut_takes_latents_as_they_are_and_never_encodes(
    pipe: NuwaXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task_of(pipe, 0), task_of(pipe, 1, (2,))]
    encoded, *known = conditioning(pipe, tasks)
    monkeypatch.setattr(pipe.vae, "encode", None)
    condition, given, mask = conditioning(pipe, tasks, "latents")
    assert torch.equal(condition, given)
    assert torch.equal(given, known[0])
    assert torch.equal(mask, known[1])
    assert (condition - encoded).abs().max() > 0.1
    sampler = WindowSampler(pipe, Sampling(steps=2, condition="latents", batch=2))
    assert len(sampler.sample(tasks, pixels=True)) == 2


def test_what_is_given_decides_what_is_made(pipe: NuwaXLPipeline) -> None:
    """Not vacuous: seed, prompt, given frame, stride, index, motion, fps and every setting change the result."""
    settings: dict[str, Any] = {"steps": 3, "guidance": 2.0, "seed": 7, "batch": 1}
    task = task_of(pipe, 0, (0,))
    changed_tasks = [
        WindowTask(task.window, task.prompts),
        WindowTask(task.window, ("",) * 5, task.given),
        WindowTask(Window(1, 0, 0, 4), task.prompts, task.given),
        WindowTask(Window(1, 1, 0, 1), task.prompts, task.given),
    ]
    changes: list[dict[str, Any]] = [
        {"seed": 8},
        {"guidance": 3.0},
        {"guidance_last": 3.0},
        {"steps": 4},
        {"fps": 3.0},
        {"motion_score": 0.5},
        {"condition": "latents"},
        {"sampler": "dpm++"},
        {"sampler": "unipc"},
        {"sampler": "ddpm"},
    ]
    first = WindowSampler(pipe, Sampling(**settings)).sample([task], pixels=False)[0].latents
    others = [WindowSampler(pipe, Sampling(**settings)).sample([other], pixels=False)[0] for other in changed_tasks]
    others += [WindowSampler(pipe, Sampling(**settings | change)).sample([task], pixels=False)[0] for change in changes]
    for other in others:
        assert (other.latents[:, 1:] - first[:, 1:]).abs().max() > 1e-4


def test_a_ramp_guides_later_frames_more(pipe: NuwaXLPipeline) -> None:
    """One step from pure noise is linear in the guidance: every frame is the mix of two plain runs at its own scale."""
    task = WindowTask(Window(0, 0, 0, 1), PROMPTS)

    def run(guidance: float, last: float | None) -> torch.Tensor:
        sampling = Sampling(steps=1, guidance=guidance, guidance_last=last, sampler="ddim")
        return WindowSampler(pipe, sampling).sample([task], pixels=False)[0].latents

    low, high, ramp = run(2.0, None), run(6.0, None), run(2.0, 6.0)
    weight = torch.linspace(0, 1, 5)[:, None, None]
    torch.testing.assert_close(ramp, torch.lerp(low, high, weight), atol=1e-5, rtol=0)
    assert torch.equal(ramp[:, 0], low[:, 0])
    assert (high - low).abs().max() > 1e-2
    assert torch.equal(run(2.0, 2.0), low)


def test_levels_have_a_guidance_of_their_own(pipe: NuwaXLPipeline) -> None:
    """Each level is what one number for all would make of it."""
    tasks = [WindowTask(Window(0, 0, 0, 4), PROMPTS), task_of(pipe, 0, (0,))]

    def run(guidance: float | tuple[float, ...], level: int) -> torch.Tensor:
        return WindowSampler(pipe, Sampling(steps=2, guidance=guidance)).sample([tasks[level]], pixels=False)[0].latents

    for level, scale in enumerate((6.0, 2.0)):
        assert torch.equal(run((6.0, 2.0), level), run(scale, level))
        assert not torch.equal(run((6.0, 2.0), level), run(8.0 - scale, level))


class Counted:
    """A denoiser that notes the batch and the step of every call."""

    def __init__(self, denoiser: Callable[..., torch.Tensor]) -> None:
        self.denoiser = denoiser
        self.calls: list[tuple[int, int]] = []

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(inputs[0]), int(inputs[1][0])))
        return self.denoiser(*inputs)


def test_levels_have_steps_and_batches_of_their_own(pipe: NuwaXLPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of guidance per window; the global window alone, local ones padded to the batch."""
    counted = Counted(pipe.denoiser_global)
    monkeypatch.setattr(pipe, "denoiser_at", lambda level: counted)
    sampler = WindowSampler(pipe, Sampling(steps=(4, 2), batch=3, sampler="ddim"))
    sampler.sample([WindowTask(Window(0, 0, 0, 4), PROMPTS)], pixels=False)
    assert counted.calls == [(2, 999), (2, 749), (2, 499), (2, 249)]
    counted.calls.clear()
    assert len(sampler.sample([task_of(pipe, n) for n in range(4)], pixels=False)) == 4
    assert counted.calls == [(6, 999), (6, 499)] * 2


def test_two_denoisers_serve_their_levels() -> None:
    pipe = stack.build(shared=False)
    task = WindowTask(Window(0, 0, 0, 1), PROMPTS)
    local = WindowTask(Window(1, 0, 0, 1), PROMPTS)
    results = {}
    for name, denoiser in (("both", pipe.denoiser_local), ("one", None)):
        pipe.denoiser_local = denoiser
        sampler = WindowSampler(pipe, Sampling(steps=2, batch=1))
        results[name] = [sampler.sample([given], pixels=False)[0].latents for given in (task, local)]
    assert torch.equal(results["both"][0], results["one"][0])
    assert not torch.equal(results["both"][1], results["one"][1])


def test_a_prompt_is_encoded_once_and_never_beside_another(
    pipe: NuwaXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    encode = pipe.encode_prompts

    def spy(prompts: list[str]) -> torch.Tensor:
        asked.append(prompts)
        return encode(prompts)

    monkeypatch.setattr(pipe, "encode_prompts", spy)
    sampler = WindowSampler(pipe, Sampling(steps=1, batch=2))
    for _ in range(2):
        sampler.sample([task_of(pipe, 0), task_of(pipe, 1)], pixels=True)
    assert sorted(asked) == [[""], ["a blue circle"], ["a red star"]]


def test_copies_that_fill_a_batch_are_not_encoded_again(pipe: NuwaXLPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = pipe.vae.encode

    def spy(video: torch.Tensor) -> object:
        seen.append(len(video))
        return encode(video)

    monkeypatch.setattr(pipe.vae, "encode", spy)
    WindowSampler(pipe, Sampling(steps=1, batch=6)).sample([task_of(pipe, 0), task_of(pipe, 1)], pixels=False)
    assert seen == [1, 1]


def test_pixels_are_the_decoded_latents(pipe: NuwaXLPipeline) -> None:
    sampler = WindowSampler(pipe, Sampling(steps=2, batch=1))
    (result,) = sampler.sample([task_of(pipe, 0)], pixels=True)
    assert result.pixels is not None
    assert torch.equal(result.pixels, sampler.decode(result.latents[None])[0])
    assert result.latents.shape == (4, 5, 8, 8)
    assert result.pixels.shape == (3, 5, 16, 16)
    assert result.pixels.abs().max() <= 1


def test_results_do_not_keep_their_batch_in_memory(pipe: NuwaXLPipeline) -> None:
    results = WindowSampler(pipe, Sampling(steps=1, batch=4)).sample([task_of(pipe, 0)], pixels=True)
    for tensor in (results[0].latents, results[0].pixels):
        assert tensor is not None
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4


def test_noise_depends_on_seed_purpose_level_and_index_only() -> None:
    keys = [(0, "window", 1, 2), (1, "window", 1, 2), (0, "other", 1, 2), (0, "window", 2, 1), (0, "window", 12, 0)]
    draws = [torch.randn(4, generator=noise_generator(*key)) for key in keys]
    assert torch.equal(draws[0], torch.randn(4, generator=noise_generator(*keys[0])))
    assert all(not torch.equal(draws[0], other) for other in draws[1:])


def test_a_batch_is_filled_with_its_first_window(pipe: NuwaXLPipeline) -> None:
    tasks = [task_of(pipe, 0), task_of(pipe, 1)]
    assert fill_batch(tasks, 4) == [*tasks, tasks[0], tasks[0]]
    assert fill_batch(tasks, 2) == tasks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": (20, 0)}, "steps is .20, 0."),
        ({"steps": ()}, "one such number per level"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": True}, "batch is True"),
        ({"steps": (20, 2.5)}, "steps is .20, 2.5.; .* whole"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"motion_score": -1.0}, "motion_score is -1.0; give 0 or more"),
        ({"motion_score": float("nan")}, "motion_score is nan"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"guidance": float("inf")}, "guidance is inf; give a number"),
        ({"guidance": (4.0, float("nan"))}, r"guidance is \(4.0, nan\); give a number \(1 is none\), or one per level"),
        ({"guidance": ()}, r"guidance is \(\); give a number"),
        ({"guidance_last": float("nan")}, "guidance_last is nan"),
        ({"sampler": "heun"}, "sampler 'heun' is unknown; use trained, ddpm, ddim, dpm\\+\\+, unipc"),
        ({"condition": "mask"}, "condition 'mask' is unknown; use pixels, latents"),
    ],
)
def test_bad_settings_say_what_to_change(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NuwaError, match=message) as error:
        Sampling(**settings)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_the_pipeline_is_told_before_anything_runs(pipe: NuwaXLPipeline) -> None:
    with pytest.raises(NuwaError, match="steps is 1001; this model's noise schedule has 1000"):
        WindowSampler(pipe, Sampling(steps=(20, 1001)))
    with pytest.raises(NuwaError, match=r"one of .*; choose a sampler: ddim"):
        WindowSampler(NuwaXLPipeline(**pipe.components | {"scheduler": PNDMScheduler()}, **SIZES), Sampling())
    rescaled = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(NuwaError, match="train with v_prediction"):
        WindowSampler(NuwaXLPipeline(**pipe.components | {"scheduler": rescaled}, **SIZES), Sampling(sampler="dpm++"))
    with pytest.raises(NuwaError, match=r"for 2 levels, \(20, 10\), and the video has 3; give one number per level"):
        Sampling(steps=(20, 10)).check_levels(3)
    with pytest.raises(NuwaError, match=r"guidance is given for 2 levels, \(8.0, 2.0\), and the video has 3; give one"):
        Sampling(guidance=(8.0, 2.0)).check_levels(3)
    with pytest.raises(NuwaError, match=r"for 1 levels, \(20,\), and the video has 2"):
        Sampling(steps=(20,)).steps_at(1)
    wrong = FixedFrame(torch.zeros(4, 8, 8), torch.zeros(3, 18, 16))
    with pytest.raises(NuwaError, match=r"given frame 7 has latent \(4, 8, 8\) and pixels \(3, 18, 16\); this"):
        check_given(pipe, {0: frame_of(pipe, 0), 7: wrong})
