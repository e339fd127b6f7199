"""Stylised generation (Lumiere Sec. 4.1): a·W_style + (1 − a)·W_orig in the spatial weights, and nowhere else."""

import copy

import pytest
import torch

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.stunet import SpaceTimeUNet
from nuwa.models.style import interpolated, styled
from tests.nuwa.test_stunet import framewise, make_inputs, make_unet, static


def make_style() -> torch.nn.Module:
    style = make_unet().double()
    with torch.no_grad():
        for weight in style.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return style


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_every_weight_is_on_the_line_between_the_two(amount: float) -> None:
    original, style = make_unet().double().state_dict(), make_style().state_dict()
    for key, weight in interpolated(original, style, amount).items():
        assert (weight - (original[key] + amount * (style[key] - original[key]))).abs().max() < 1e-15
        assert amount > 0 or torch.equal(weight, original[key])
        assert amount < 1 or torch.equal(weight, style[key])


@torch.no_grad()
def test_a_static_video_in_full_style_is_what_the_style_makes() -> None:
    style, inputs = make_style(), static(make_inputs())
    model = SpaceTimeUNet.from_unet(make_unet().double())
    plain = model(**inputs)
    with styled(model, style, 1.0) as stylised:
        assert (stylised(**inputs) - framewise(style, inputs)).abs().max() < 1e-12
    with styled(model, style, 0.5):
        half = model(**inputs)
    assert (half - plain).abs().max() > 1e-3
    assert (half - framewise(style, inputs)).abs().max() > 1e-3


def fails_having_changed(model: torch.nn.Module, before: dict[str, torch.Tensor], keys: set[str]) -> None:
    assert {key for key, weight in model.state_dict().items() if not torch.equal(weight, before[key])} == keys
    raise KeyError


@pytest.mark.parametrize("network", [SpaceTimeUNet, MaskTemporalUNet])
def test_afterwards_all_weights_are_bitwise_what_they_were_also_after_an_error(network: type) -> None:
    model = network.from_unet(make_unet().double())
    before, frozen = copy.deepcopy(model.state_dict()), [one.requires_grad for one in model.parameters()]
    for _ in range(2):
        with pytest.raises(KeyError), styled(model, make_style(), 0.7):
            fails_having_changed(model, before, set(make_unet().state_dict()))
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())
    assert [one.requires_grad for one in model.parameters()] == frozen


def test_style_in_another_precision_is_converted() -> None:
    original = make_unet().state_dict()
    mixed = interpolated(original, make_style().state_dict(), 1.0)
    assert all(weight.dtype == torch.float32 for weight in mixed.values())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"block_out_channels": (8, 24, 24)}, r"norm.weight is \(24,\), in the model \(16,\)"),
        ({"layers_per_block": 2}, "only the style has"),
        ({"cross_attention_dim": 16}, "attn2.to_k.weight"),
    ],
)
def test_a_style_of_another_architecture_is_refused_in_one_line(options: dict[str, object], named: str) -> None:
    model = SpaceTimeUNet.from_unet(make_unet())
    before = copy.deepcopy(model.state_dict())
    with (
        pytest.raises(NuwaError, match=f"another architecture: .*{named}.*fine-tuned from the same") as caught,
        styled(model, make_unet(**options), 0.5),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan")])
def test_amounts_outside_0_to_1_are_refused(amount: float) -> None:
    state = make_unet().state_dict()
    with pytest.raises(NuwaError, match="outside 0"):
        interpolated(state, state, amount)
