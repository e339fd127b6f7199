"""The call of the space-time pipeline, in diffusers' manner."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nuwa.generate.masks import Known, image_to_video
from nuwa.generate.one_pass import ClipSampler, ClipSampling
from nuwa.generate.stunet_pipeline import StunetPipeline, save_stunet
from nuwa.hierarchy import NuwaError
from tests.nuwa import clip_stack

STEPS = 2


@pytest.fixture(scope="module")
def pipe() -> StunetPipeline:
    pipe = clip_stack.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_it_makes_what_the_sampler_makes(pipe: StunetPipeline, tmp_path: Path) -> None:
    save_stunet(pipe, tmp_path / "model")
    loaded = StunetPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    made = loaded(["a red star", "a blue circle"], num_frames=6, num_inference_steps=STEPS, generator=seeded())
    sampler = ClipSampler(
        pipe, ClipSampling(steps=STEPS, seed=int(torch.randint(2**63 - 1, (), generator=seeded())), fps=4.0)
    )
    expected = list(sampler.frames(sampler.sample(["a red star"] * 3 + ["a blue circle"] * 3)))
    assert len(made.frames[0]) == 6
    np.testing.assert_array_equal(np.stack([np.asarray(frame) for frame in made.frames[0]]), np.stack(expected))


def test_kinds_of_frames_show_the_same_and_a_tuple_is_plain(pipe: StunetPipeline) -> None:
    pil, array, tensor = (
        pipe(
            "a star", num_frames=3, num_inference_steps=STEPS, generator=seeded(), output_type=kind, return_dict=False
        )[0]
        for kind in ("pil", "np", "pt")
    )
    assert array.shape == (1, 3, 16, 16, 3)
    np.testing.assert_array_equal(np.asarray(pil[0][1]) / np.float32(255), array[0, 1])
    np.testing.assert_array_equal(tensor.numpy()[0, 1].transpose(1, 2, 0), array[0, 1])


def test_known_pixels_are_in_the_clip(pipe: StunetPipeline) -> None:
    video = torch.rand(3, 4, 16, 16, generator=seeded()).mul(255).round() / 127.5 - 1
    known: Known = image_to_video(video[:, 0], 4)
    made = pipe("a star", num_frames=4, num_inference_steps=STEPS, known=known, output_type="pt").frames
    torch.testing.assert_close(made[0, 0], (video[:, 0] + 1) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": 3}, "prompts is 3"),
        ({"prompt": []}, "without prompts"),
        ({"prompt": "a", "num_frames": 0}, "num_frames is 0"),
        ({"prompt": "a", "num_frames": 2.5}, r"num_frames is 2\.5"),
        ({"prompt": ["a", "b", "c"], "num_frames": 2}, "3 prompts for 2 frames"),
        ({"prompt": "a", "output_type": "mp4"}, "output_type 'mp4' is unknown"),
        ({"prompt": "a", "num_inference_steps": 0}, "steps"),
        ({"prompt": "a", "generator": 3}, "generator is 3"),
    ],
)
def test_what_cannot_be_made_is_one_line(pipe: StunetPipeline, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(NuwaError, match=message) as caught:
        pipe(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
