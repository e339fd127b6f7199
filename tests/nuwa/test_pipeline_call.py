"""The pipeline called as diffusers' pipelines are."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import frame_plan, generate_frames
from nuwa.generate.pipeline import NuwaXLPipeline, NuwaXLPipelineOutput, spread
from nuwa.generate.windows import FixedFrame, Sampling, WindowResult, WindowSampler
from nuwa.hierarchy import NuwaError, Window
from tests.nuwa import stack


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> NuwaXLPipeline:
    pipe = stack.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_frames_are_those_of_the_recursion(pipe: NuwaXLPipeline) -> None:
    """The call adds nothing of its own: same prompts, sampling and seed, same frames, in every output type."""
    arguments = {
        "num_inference_steps": (3, 2),
        "guidance_scale": [2.0, 1.5],
        "guidance_scale_last": 3.0,
        "sampler": "dpm++",
    }
    out = pipe(["a red star", "a blue circle"], 7, generator=seeded(3), output_type="np", fps=6.0, **arguments)
    assert isinstance(out, NuwaXLPipelineOutput)
    assert out.frames.shape == (1, 7, 16, 16, 3)
    assert out.frames.dtype == np.float32
    sampling = Sampling(
        steps=(3, 2),
        guidance=(2.0, 1.5),
        guidance_last=3.0,
        sampler="dpm++",
        fps=6.0,
        seed=int(torch.randint(2**63 - 1, (), generator=seeded(3))),
    )
    plan = frame_plan(["a red star"] * 4 + ["a blue circle"] * 3, stack.LENGTH)
    expected = np.stack(list(generate_frames(plan, LocalExecutor(WindowSampler(pipe, sampling)))))
    assert np.array_equal(np.rint(out.frames[0] * 255), expected)
    (images,) = pipe(["a red star", "a blue circle"], 7, generator=seeded(3), fps=6.0, **arguments).frames
    assert all(isinstance(image, Image.Image) for image in images)
    assert np.array_equal(np.stack(images), expected)
    arguments |= {"output_type": "pt", "return_dict": False}
    (tensor,) = pipe(["a red star", "a blue circle"], 7, generator=seeded(3), fps=6.0, **arguments)
    assert tensor.shape == (1, 7, 3, 16, 16)
    assert np.array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), out.frames)


def test_the_generator_fixes_the_video(pipe: NuwaXLPipeline) -> None:
    videos = [pipe("a red star", 5, 2, generator=seeded(seed), output_type="np").frames for seed in (0, 0, 1)]
    assert np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])
    generator = seeded(0)
    again = [pipe("a red star", 5, 2, generator=generator, output_type="np").frames for _ in range(2)]
    assert np.array_equal(again[0], videos[0])
    assert not np.array_equal(again[1], videos[0]), "a generator moves on"
    torch.manual_seed(5)
    first = pipe("a red star", 5, 2, output_type="np").frames
    torch.manual_seed(5)
    assert np.array_equal(pipe("a red star", 5, 2, output_type="np").frames, first)


def test_lists_mean_what_diffusers_means_by_them(pipe: NuwaXLPipeline) -> None:
    """Steps per level, and one generator for the one video."""
    lists = pipe("a red star", 7, [2, 1], generator=[seeded(4)], output_type="np").frames
    assert np.array_equal(lists, pipe("a red star", 7, (2, 1), generator=seeded(4), output_type="np").frames)


@pytest.mark.parametrize(
    ("prompts", "num_frames", "expected"),
    [
        ("a", 3, ["a"] * 3),
        (["a", "b"], 4, ["a", "a", "b", "b"]),
        (["a", "b"], 5, ["a", "a", "a", "b", "b"]),
        (["a", "b", "c"], 3, ["a", "b", "c"]),
        (("a", "b", "c"), 226, ["a"] * 76 + ["b"] * 75 + ["c"] * 75),
    ],
)
def test_fewer_prompts_than_frames_are_spread_evenly(prompts, num_frames: int, expected: list[str]) -> None:
    assert spread(prompts, num_frames) == expected


def test_length_is_one_window_or_one_frame_per_prompt_by_default(pipe: NuwaXLPipeline) -> None:
    assert len(pipe("a red star", num_inference_steps=1).frames[0]) == stack.LENGTH
    assert len(pipe(["a red star"] * 6, num_inference_steps=1).frames[0]) == 6
    assert len(pipe(["a red star"] * 2, num_inference_steps=1).frames[0]) == stack.LENGTH


def test_every_window_is_told_of(pipe: NuwaXLPipeline) -> None:
    told: dict[Window, WindowResult] = {}
    pipe("a red star", 17, 1, generator=seeded(0), callback_on_window_end=told.__setitem__)
    assert sorted(told) == [Window(0, 0, 0, 4), *(Window(1, n, 4 * n, 1) for n in range(4))]
    assert all(result.latents.shape == (4, 5, 8, 8) for result in told.values())
    ends = told[Window(0, 0, 0, 4)].latents
    for n in range(4):
        assert torch.equal(told[Window(1, n, 4 * n, 1)].latents[:, [0, 4]], ends[:, [n, n + 1]])


def test_the_bar_counts_windows(pipe: NuwaXLPipeline, capsys: pytest.CaptureFixture) -> None:
    pipe.set_progress_bar_config(disable=False)
    try:
        pipe("a red star", 17, 1)
    finally:
        pipe.set_progress_bar_config(disable=True)
    assert "5/5" in capsys.readouterr().err


def test_given_frames_are_in_the_video(pipe: NuwaXLPipeline) -> None:
    frame = FixedFrame(torch.full((4, 8, 8), 0.5), torch.zeros(3, 16, 16))
    told: dict[Window, WindowResult] = {}
    pipe("a red star", 5, 2, given={2: frame}, callback_on_window_end=told.__setitem__)
    assert torch.equal(told[Window(0, 0, 0, 1)].latents[:, 2], frame.latent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ["a"] * 6, "num_frames": 5}, "6 prompts for 5 frames; give at most one per frame"),
        ({"prompts": []}, "without prompts"),
        ({"prompts": "a", "num_frames": 1}, "num_frames is 1; a video has at least 2"),
        ({"prompts": "a", "num_frames": 0}, "num_frames is 0"),
        ({"prompts": "a", "num_frames": 30, "depth": 2}, "depth of at least 3"),
        ({"prompts": "a", "output_type": "mp4"}, "output_type 'mp4' is unknown; use pil, np or pt"),
        ({"prompts": "a", "num_inference_steps": 0}, "steps is 0"),
        ({"prompts": "a", "num_inference_steps": 1001}, "noise schedule has 1000"),
        (
            {"prompts": "a", "num_frames": 30, "num_inference_steps": (2, 1)},
            "for 2 levels, .* and the video has 3",
        ),
        ({"prompts": "a", "batch_size": 0}, "batch is 0"),
        ({"prompts": "a", "sampler": "plms"}, "sampler 'plms' is unknown"),
        ({"prompts": "a", "condition": "depth"}, "condition 'depth' is unknown"),
        ({"prompts": "a", "guidance_scale_last": float("nan")}, "guidance_last is nan"),
        ({"prompts": None}, "prompts is None; give a string, or a list of them"),
        ({"prompts": [None]}, "prompt 0 is None; give a string"),
        ({"prompts": ["a", 3]}, "prompt 1 is 3; give a string"),
        ({"prompts": "a", "num_frames": 2.5}, "num_frames is 2.5; .* a whole number"),
        ({"prompts": "a", "num_frames": "9"}, "num_frames is '9'"),
        ({"prompts": "a", "num_inference_steps": 2.5}, "steps is 2.5; .* whole"),
        ({"prompts": "a", "num_inference_steps": "20"}, "steps is '20'; .* whole"),
        ({"prompts": "a", "num_inference_steps": [2, 0]}, r"steps is \(2, 0\)"),
        ({"prompts": "a", "guidance_scale": "4"}, "guidance is '4'; give a number"),
        ({"prompts": "a", "batch_size": 2.5}, "batch is 2.5; .* whole"),
        ({"prompts": "a", "fps": "8"}, "fps is '8'"),
        ({"prompts": "a", "depth": 2.0}, "depth is 2.0; .* whole"),
        ({"prompts": "a", "motion_score": float("nan")}, "motion_score is nan; give 0 or more"),
        ({"prompts": "a", "motion_score": -1}, "motion_score is -1; give 0 or more"),
        ({"prompts": "a", "generator": 3}, "generator is 3; give one torch.Generator"),
        ({"prompts": "a", "generator": [torch.Generator()] * 2}, "generator is .*; give one torch.Generator"),
        ({"prompts": "a", "given": {0: None}}, "given frame 0 is a NoneType; give a FixedFrame"),
        ({"prompts": "a", "given": {"0": None}}, "given has a frame '0'; give whole numbers"),
        ({"prompts": "a", "given": [None]}, "given is a list; give a mapping"),
        ({"prompts": "a", "given": {5: FixedFrame(torch.zeros(4, 8, 8), torch.zeros(3, 16, 16))}}, "given frame 5"),
        ({"prompts": "a", "given": {0: FixedFrame(torch.zeros(4, 9, 8), torch.zeros(3, 18, 16))}}, "given frame 0"),
    ],
)
def test_what_cannot_be_made_is_told_before_the_first_window(pipe: NuwaXLPipeline, arguments, message: str) -> None:
    told: list[Window] = []
    with pytest.raises(NuwaError, match=message) as error:
        pipe(**arguments, callback_on_window_end=lambda window, result: told.append(window))
    assert "\n" not in str(error.value)
    assert not told
