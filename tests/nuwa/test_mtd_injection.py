"""Variants of the paper's ablation are one option of the network: where condition and mask enter."""

from pathlib import Path

import pytest
import torch

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import MaskTemporalUNet
from tests.nuwa.test_mtd import NUM_FRAMES, dependence, make_inputs, make_mtd, make_unet, with_random_weights

ENTERED = {
    "symmetric": {"down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1"},
    "up_only": {"up_blocks.0", "up_blocks.1"},
    "single_scale": {"up_blocks.1"},
}


@pytest.mark.parametrize("injection", list(ENTERED))
def test_condition_and_mask_enter_where_the_variant_says(injection: str) -> None:
    model = with_random_weights(make_mtd(injection=injection))
    names = {name.split(".modulations.")[0] for name, _ in model.named_modules() if ".modulations." in name}
    assert names == ENTERED[injection]
    assert dependence(model, "condition") > 1e-6
    assert dependence(model, "mask") > 1e-6


@pytest.mark.parametrize("injection", list(ENTERED))
def test_every_weight_of_a_variant_is_used(injection: str) -> None:
    model = with_random_weights(make_mtd(injection=injection))
    model(**make_inputs()).square().mean().backward()
    unused = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not unused


@pytest.mark.parametrize("injection", ["up_only", "single_scale"])
def test_the_way_down_knows_nothing_of_the_condition(injection: str) -> None:
    model, seen = with_random_weights(make_mtd(injection=injection)), []
    model.mid_block.register_forward_hook(lambda _, __, output: seen.append(output))
    inputs = make_inputs()
    with torch.no_grad():
        model(**inputs)
        model(**(inputs | {"condition": inputs["condition"] + 1}))
    assert torch.equal(*seen)


@pytest.mark.parametrize("injection", list(ENTERED))
def test_every_variant_is_the_image_unet_at_init_and_loads_key_for_key(injection: str) -> None:
    unet = make_unet().double()
    model = MaskTemporalUNet.from_unet(unet, condition_channels=6, mask_channels=3, injection=injection)
    assert unet.state_dict().keys() <= model.state_dict().keys()
    inputs = {name: value.double() for name, value in make_inputs().items()}
    with torch.no_grad():
        output = model(**inputs)
        for frame in range(NUM_FRAMES):
            prompt = inputs["encoder_hidden_states"][:, frame]
            expected = unet(inputs["sample"][:, :, frame], inputs["timestep"], prompt).sample
            assert (output[:, :, frame] - expected).abs().max() < 1e-12


def test_variants_share_all_other_weights() -> None:
    keys = {injection: make_mtd(injection=injection).state_dict().keys() for injection in ENTERED}
    assert keys["single_scale"] < keys["up_only"] < keys["symmetric"]
    more = keys["symmetric"] - keys["single_scale"]
    assert all("modulations" in key or "cascade.convs.1" in key for key in more)


def test_the_variant_is_part_of_the_stored_configuration(tmp_path: Path) -> None:
    model = with_random_weights(make_mtd(injection="single_scale"))
    model.save_pretrained(tmp_path)
    back = MaskTemporalUNet.from_pretrained(tmp_path).eval()
    assert back.config.injection == "single_scale"
    with torch.no_grad():
        assert torch.equal(back(**make_inputs()), model(**make_inputs()))


def test_networks_stored_before_there_were_variants_are_symmetric() -> None:
    stored = make_mtd().config.items()
    config = {key: value for key, value in stored if key != "injection" and not key.startswith("_")}
    assert MaskTemporalUNet.from_config(config).config.injection == "symmetric"


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(
        NuwaError, match=r"injection 'sideways' is unknown; use one of symmetric, up_only, single_scale"
    ):
        make_mtd(injection="sideways")
