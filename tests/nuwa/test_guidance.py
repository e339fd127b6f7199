"""Classifier-free guidance drops prompts and nothing else."""

import torch

from nuwa.diffusion.guidance import frame_scales, guided

NULL = torch.full((6, 4), -1.0)


class Recorder:
    """A denoiser that keeps what it is called with and answers the mean of each window's prompts."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, ...]] = []

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append(inputs)
        mean = inputs[2].flatten(1).mean(dim=1)
        return mean.reshape(-1, 1, 1, 1, 1).expand_as(inputs[0])


def make_inputs() -> tuple[torch.Tensor, ...]:
    return (
        torch.randn(2, 4, 3, 5, 5),
        torch.tensor([7, 8]),
        torch.full((2, 3, 6, 4), 2.0),
        torch.randn(2, 4, 3, 5, 5),
        torch.ones(2, 1, 3, 5, 5),
        torch.tensor([1.0, 15.0]),
        torch.rand(2, 3),
    )


def test_guidance_extrapolates_from_the_empty_prompt() -> None:
    out = guided(Recorder(), 3.0, NULL)(*make_inputs())
    assert torch.allclose(out, torch.full_like(out, -1 + 3 * (2 - -1)))


def test_only_prompts_are_dropped() -> None:
    recorder, inputs = Recorder(), make_inputs()
    guided(recorder, 3.0, NULL)(*inputs)
    (call,) = recorder.calls
    without, prompted = (tuple(part.chunk(2)[half] for part in call) for half in (0, 1))
    assert all(torch.equal(given, seen) for given, seen in zip(inputs, prompted, strict=True))
    assert torch.equal(without[2], NULL.expand(2, 3, 6, 4))
    others = (0, 1, 3, 4, 5, 6)
    assert all(torch.equal(inputs[index], without[index]) for index in others)


def test_scale_one_calls_once_without_the_empty_prompt() -> None:
    recorder, inputs = Recorder(), make_inputs()
    guided(recorder, 1.0, NULL)(*inputs)
    assert len(recorder.calls) == 1
    assert recorder.calls[0][0] is inputs[0]


def test_global_windows_have_neither_mask_nor_condition() -> None:
    recorder, inputs = Recorder(), make_inputs()
    guided(recorder, 3.0, NULL)(inputs[0], torch.tensor(5), inputs[2][:, 0])
    assert recorder.calls[0][3:] == (None, None, None, None)
    assert recorder.calls[0][1].tolist() == [5] * 4


def test_a_ramp_scales_every_frame_by_its_own_number() -> None:
    """Stable Video Diffusion: null + s_i·(prompted − null), s_i linear over the frames of a window."""
    scales = frame_scales(1.0, 3.0, 3)
    assert scales.tolist() == [1.0, 2.0, 3.0]
    out = guided(Recorder(), scales, NULL)(*make_inputs())
    expected = torch.tensor([-1 + scale * (2 - -1) for scale in (1.0, 2.0, 3.0)])
    assert torch.equal(out, expected[:, None, None].expand_as(out))


def test_a_flat_ramp_is_plain_guidance() -> None:
    inputs = make_inputs()
    flat, plain = (guided(Recorder(), scale, NULL)(*inputs) for scale in (frame_scales(3.0, 3.0, 3), 3.0))
    assert torch.equal(flat, plain)
