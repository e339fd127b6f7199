"""Condition and mask: cascade, modulation (NUWA-XL Eq. 10 and 11), embedding of stride and clip numbers."""

import pytest
import torch

from nuwa.hierarchy import NuwaError
from nuwa.nn.embedding import ClipEmbedding, frame_positions
from nuwa.nn.modulation import Cascade, Control, ControlModulation, Modulation


def trained(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_modulation_is_the_identity_bitwise_at_first() -> None:
    frames = torch.randn(6, 8, 4, 4)
    control = Control(torch.randn(6, 5, 4, 4), torch.randn(6, 2, 4, 4))
    assert torch.equal(ControlModulation(5, 2, 8)(frames, control), frames)


def test_modulation_is_eq10_then_eq11() -> None:
    module = trained(ControlModulation(5, 2, 8)).double()
    frames = torch.randn(6, 8, 4, 4).double()
    control = Control(torch.randn(6, 5, 4, 4).double(), torch.randn(6, 2, 4, 4).double())
    weight_c, bias_c = module.condition.conv(control.condition).chunk(2, dim=1)
    weight_m, bias_m = module.mask.conv(control.mask).chunk(2, dim=1)
    expected = weight_c * frames + bias_c + frames
    expected = weight_m * expected + bias_m + expected
    assert (module(frames, control) - expected).abs().max() < 1e-12


def test_zero_initialised_convolution_learns_at_once() -> None:
    module = Modulation(5, 8)
    module(torch.randn(2, 8, 4, 4), torch.randn(2, 5, 4, 4)).square().mean().backward()
    assert module.conv.weight.grad.abs().min() > 0


@pytest.mark.parametrize("size", [8, 7])
def test_cascade_reaches_every_resolution_of_the_unet(size: int) -> None:
    features = Cascade(4, 6, 3)(torch.randn(2, 4, size, size))
    assert [tuple(each.shape) for each in features] == [(2, 6, size, size), (2, 6, 4, 4), (2, 6, 2, 2)]


def test_clip_embedding_says_nothing_at_first() -> None:
    out = ClipEmbedding(16)(torch.tensor([1.0, 225.0]), torch.tensor([[8.0, 0.3, 0.0], [torch.nan] * 3]))
    assert torch.equal(out, torch.zeros(2, 16))


def test_unknown_numbers_take_their_learned_null() -> None:
    module = trained(ClipEmbedding(16))
    stride = torch.ones(1)
    known = module(stride, torch.tensor([[8.0, 0.3, 0.0]]))
    unknown = module(stride, torch.tensor([[8.0, torch.nan, 0.0]]))
    assert unknown.isfinite().all()
    assert not torch.allclose(known, unknown)
    module.null_ids.data[0] += 1  # null of fps, which is known here
    assert torch.equal(module(stride, torch.tensor([[8.0, torch.nan, 0.0]])), unknown)
    module.null_ids.data[1] += 1
    assert not torch.allclose(module(stride, torch.tensor([[8.0, torch.nan, 0.0]])), unknown)


def test_stride_enters_by_its_logarithm() -> None:
    module = trained(ClipEmbedding(16))
    seen = []
    module.stride.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = torch.full((3, 3), torch.nan)
    out = module(torch.tensor([1.0, 15.0, 225.0]), ids)
    assert not torch.allclose(out[0], out[1])
    # 225 = 15²: its logarithm is twice that of 15, so the cosine and sine are those of twice the angle
    cos, sin = seen[0].double().chunk(2, dim=-1)
    assert torch.allclose(cos[2], 2 * cos[1] ** 2 - 1, atol=1e-3)
    assert torch.allclose(sin[2], 2 * sin[1] * cos[1], atol=1e-3)


def test_wrong_number_of_clip_numbers_is_refused() -> None:
    with pytest.raises(NuwaError, match=r"\(2, 3\)"):
        ClipEmbedding(16)(torch.ones(2), torch.ones(2, 4))


def test_frame_positions_do_not_depend_on_the_length_of_the_clip() -> None:
    like = torch.zeros(1)
    assert torch.equal(frame_positions(16, 8, like)[:5], frame_positions(5, 8, like))
