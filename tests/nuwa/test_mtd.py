"""Mask Temporal Diffusion (NUWA-XL Sec. 3.2): at first the image U-Net, frame by frame."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import Injection, MaskTemporalUNet
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv

NUM_FRAMES, WIDTH = 5, 12


def make_unet(**options: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    defaults: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(defaults | options)).eval()


def make_mtd(injection: Injection = "symmetric", **options: object) -> MaskTemporalUNet:
    unet = make_unet(**options)
    return MaskTemporalUNet.from_unet(unet, condition_channels=6, mask_channels=3, injection=injection).eval()


def with_random_weights(model: MaskTemporalUNet) -> MaskTemporalUNet:
    """Every weight moved, those that start at zero too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def make_inputs(seed: int = 0, size: tuple[int, int] = (8, 8)) -> dict[str, torch.Tensor]:
    """A local window: first and last frame given."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, 1, NUM_FRAMES, *size)
    mask[:, :, [0, -1]] = 1
    return {
        "sample": torch.randn(2, 4, NUM_FRAMES, *size, generator=generator),
        "timestep": torch.tensor([7, 500]),
        "encoder_hidden_states": torch.randn(2, NUM_FRAMES, 6, WIDTH, generator=generator),
        "condition": torch.randn(2, 4, NUM_FRAMES, *size, generator=generator),
        "mask": mask,
        "stride": torch.tensor([1.0, 15.0]),
        "added_time_ids": torch.tensor([[8.0, 0.3, 0.0], [8.0, torch.nan, 0.1]]),
    }


def trained_mtd() -> MaskTemporalUNet:
    """One optimiser step."""
    model = make_mtd()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    noise = torch.randn(2, 4, NUM_FRAMES, 8, 8, generator=torch.Generator().manual_seed(9))
    (model(**make_inputs()) - noise).square().mean().backward()
    optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def stepped() -> MaskTemporalUNet:
    return trained_mtd()


def with_zero_modulation(model: MaskTemporalUNet, blocks: nn.ModuleList) -> None:
    for block in blocks:
        for parameter in block.modulations.parameters():
            nn.init.zeros_(parameter)


def dependence(model: MaskTemporalUNet, name: str) -> float:
    """Largest change of the output when the middle of `condition` or `mask` changes."""
    inputs = make_inputs()
    other = dict(inputs)
    other[name] = inputs[name].clone()
    other[name][:, :, NUM_FRAMES // 2] += 1
    with torch.no_grad():
        return (model(**inputs) - model(**other)).abs().max().item()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers_per_block": 2, "use_linear_projection": True},
        {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
        {"transformer_layers_per_block": 2, "only_cross_attention": True, "act_fn": "gelu"},
        {"time_embedding_type": "fourier", "timestep_post_act": "silu", "mid_block_scale_factor": 2.0},
        {"block_out_channels": (8, 16, 16), "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
         "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), "layers_per_block": (1, 2, 1)},
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_at_init_it_is_the_image_unet_frame_by_frame(options: dict[str, object], size: tuple[int, int]) -> None:
    unet = make_unet(**options).double()
    model = MaskTemporalUNet.from_unet(unet)
    inputs = {name: value.double() for name, value in make_inputs(size=size).items()}
    output = model(**inputs)
    for frame in range(NUM_FRAMES):
        prompt = inputs["encoder_hidden_states"][:, frame]
        expected = unet(inputs["sample"][:, :, frame], inputs["timestep"], prompt).sample
        assert (output[:, :, frame] - expected).abs().max() < 1e-12


def test_at_init_in_single_precision_the_difference_is_rounding() -> None:
    unet, inputs = make_unet(), make_inputs()
    with torch.no_grad():
        output = MaskTemporalUNet.from_unet(unet)(**inputs)[:, :, 2]
        expected = unet(inputs["sample"][:, :, 2], inputs["timestep"], inputs["encoder_hidden_states"][:, 2]).sample
    assert (output - expected).norm() / expected.norm() < 1e-6


def test_at_init_every_temporal_module_leaves_its_input_bitwise() -> None:
    model, changed = make_mtd(), []

    def compare(module: nn.Module, inputs: tuple[torch.Tensor, int], output: torch.Tensor) -> None:
        changed.append(not torch.equal(inputs[0], output))

    for module in model.modules():
        if isinstance(module, TemporalConv | TemporalAttention):
            module.register_forward_hook(compare)
    with torch.no_grad():
        model(**make_inputs())
    assert len(changed) >= 12
    assert not any(changed)


def cross_frame_gradient(model: MaskTemporalUNet) -> float:
    """Largest derivative of the other frames' output by frame 1 of the sample."""
    inputs = make_inputs()
    inputs["sample"].requires_grad_()
    output = model(**inputs)[:, :, [0, 2, 3, 4]]
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((output * weights).sum(), inputs["sample"])
    return gradient[:, :, 1].abs().max().item()


def test_cross_frame_jacobian_is_zero_at_init_and_not_after_one_step(stepped: MaskTemporalUNet) -> None:
    assert cross_frame_gradient(make_mtd()) == 0
    assert cross_frame_gradient(stepped) > 1e-6


def test_zero_modulation_output_does_not_depend_on_condition_and_mask_at_init() -> None:
    model = make_mtd()
    assert dependence(model, "condition") == 0
    assert dependence(model, "mask") == 0


@pytest.mark.parametrize("name", ["condition", "mask"])
def test_after_one_step_it_depends_on_both_through_both_paths(name: str) -> None:
    down_only, up_only, neither = trained_mtd(), trained_mtd(), trained_mtd()
    with_zero_modulation(down_only, down_only.up_blocks)
    with_zero_modulation(up_only, up_only.down_blocks)
    with_zero_modulation(neither, neither.up_blocks)
    with_zero_modulation(neither, neither.down_blocks)
    assert dependence(down_only, name) > 1e-6
    assert dependence(up_only, name) > 1e-6
    assert dependence(neither, name) == 0


def test_every_down_and_up_block_learns_from_condition_and_mask() -> None:
    model = make_mtd()
    model(**make_inputs()).square().mean().backward()
    for block in [*model.down_blocks, *model.up_blocks]:
        for modulation in block.modulations:
            assert modulation.condition.conv.weight.grad.abs().max() > 0
            assert modulation.mask.conv.weight.grad.abs().max() > 0


def test_all_zero_mask_is_the_global_model(stepped: MaskTemporalUNet) -> None:
    inputs = make_inputs()
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    with torch.no_grad():
        output = stepped(**inputs)
        assert torch.equal(stepped(**(inputs | {"condition": inputs["condition"] + 1})), output)
        assert torch.equal(stepped(**(inputs | {"condition": None, "mask": None})), output)
        # one global and one local window in the same batch
        inputs["mask"][1] = 1
        mixed = stepped(**inputs)
    assert torch.allclose(mixed[0], output[0], atol=1e-5)
    assert not torch.allclose(mixed[1], output[1], atol=1e-5)


def test_each_frame_sees_only_its_own_prompt() -> None:
    model, inputs = make_mtd(), make_inputs()
    changed = inputs["encoder_hidden_states"].clone()
    changed[:, 3] += 1
    with torch.no_grad():
        difference = (model(**inputs) - model(**(inputs | {"encoder_hidden_states": changed}))).abs()
    per_frame = difference.amax(dim=(0, 1, 3, 4))
    assert per_frame[3] > 0
    assert per_frame[[0, 1, 2, 4]].max() == 0


def test_one_prompt_for_the_window_is_the_same_prompt_for_every_frame(stepped: MaskTemporalUNet) -> None:
    inputs = make_inputs()
    clip = inputs["encoder_hidden_states"][:, 0]
    with torch.no_grad():
        once = stepped(**(inputs | {"encoder_hidden_states": clip}))
        frames = clip[:, None].expand(-1, NUM_FRAMES, -1, -1)
        assert torch.allclose(stepped(**(inputs | {"encoder_hidden_states": frames})), once, atol=1e-6)
        assert not torch.allclose(stepped(**inputs), once, atol=1e-6)


def test_order_of_an_up_block_is_equations_7_to_16() -> None:
    model, calls = make_mtd(), []
    block = model.up_blocks[1]
    layer = {
        "last layer of the block before": model.up_blocks[0].modulations[-1],
        "upsampling of the block before": model.up_blocks[0].upsamplers[0].conv,
        "conv (7)": block.resnets[0].conv1,
        "step (7)": block.resnets[0].time_emb_proj,
        "spatial conv (8)": block.resnets[0].conv2,
        "temporal conv (9)": block.resnets[0].conv2_time,
        "condition (10)": block.modulations[0].condition,
        "mask (11)": block.modulations[0].mask,
        "spatial attention (12-13)": block.attentions[0].transformer_blocks[0].attn1,
        "prompt (14-15)": block.attentions[0].transformer_blocks[0].attn2,
        "temporal attention": block.attn_time[0],
    }
    for name, module in layer.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        model(**make_inputs())
    assert calls == list(layer)


def test_step_stride_and_clip_numbers_matter_after_one_step(stepped: MaskTemporalUNet) -> None:
    inputs = make_inputs()
    with torch.no_grad():
        output = stepped(**inputs)
        for change in (
            {"timestep": torch.tensor([8, 501])},
            {"stride": torch.tensor([15.0, 225.0])},
            {"added_time_ids": torch.full((2, 3), torch.nan)},
        ):
            assert not torch.equal(stepped(**(inputs | change)), output)
        for place in range(3):  # fps, motion score, noise augmentation: a number and its null differ
            numbers = inputs["added_time_ids"].clone().nan_to_num(0.2)
            known = stepped(**(inputs | {"added_time_ids": numbers.clone()}))
            numbers[:, place] = torch.nan
            assert not torch.equal(stepped(**(inputs | {"added_time_ids": numbers})), known)
        unknown = stepped(**(inputs | {"added_time_ids": None}))
        assert torch.equal(stepped(**(inputs | {"added_time_ids": torch.full((2, 3), torch.nan)})), unknown)


@pytest.mark.parametrize("num_frames", [1, 2, 16, 24])
def test_any_number_of_frames(stepped: MaskTemporalUNet, num_frames: int) -> None:
    generator = torch.Generator().manual_seed(4)
    sample, condition = torch.randn(2, 1, 4, num_frames, 8, 8, generator=generator)
    prompts = torch.randn(1, num_frames, 6, WIDTH, generator=generator)
    mask = torch.zeros(1, 1, num_frames, 8, 8)
    mask[:, :, [0, -1]] = 1
    with torch.no_grad():
        output = stepped(sample, torch.tensor(3), prompts, condition, mask)
        assert output.shape == sample.shape
        assert not torch.allclose(stepped(sample, torch.tensor(3), prompts, condition + 1, mask), output, atol=1e-6)
        assert stepped(sample, torch.tensor(3), prompts[:, 0]).shape == sample.shape


def masks_of_all_kinds() -> torch.Tensor:
    """Global, local, first frame, prediction, infilling, and one that is given in half of each picture only."""
    given = [[], [0, NUM_FRAMES - 1], [0], [0, 1, 2], [1, 3]]
    mask = torch.zeros(len(given) + 1, 1, NUM_FRAMES, 8, 8)
    for row, frames in enumerate(given):
        mask[row, :, frames] = 1
    mask[-1, ..., :4] = 1
    return mask


def test_masks_of_all_kinds_are_one_network() -> None:
    model, mask = with_random_weights(make_mtd()), masks_of_all_kinds()
    rows = len(mask)
    inputs = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in make_inputs().items()} | {"mask": mask}
    with torch.no_grad():
        together = model(**inputs)
        for row in range(rows):
            alone = model(**{name: value[row : row + 1] for name, value in inputs.items()})
            assert torch.allclose(alone[0], together[row], atol=1e-5)
    pairs = torch.cdist(together.flatten(1), together.flatten(1))
    assert pairs[~torch.eye(rows, dtype=torch.bool)].min() > 1e-3


def test_normalisation_never_mixes_frames() -> None:
    """Random weights everywhere, but temporal convolutions and attentions set back to the identity."""
    model = with_random_weights(make_mtd())
    assert cross_frame_gradient(model) > 1e-6
    for module in model.modules():
        if isinstance(module, TemporalConv):
            module.reset_parameters()
        if isinstance(module, TemporalAttention):
            nn.init.zeros_(module.to_out.weight)
            nn.init.zeros_(module.to_out.bias)
    assert cross_frame_gradient(model) == 0


def test_windows_of_a_batch_do_not_see_each_other(stepped: MaskTemporalUNet) -> None:
    inputs = make_inputs()
    with torch.no_grad():
        both = stepped(**inputs)
        alone = stepped(**{name: value[1:] for name, value in inputs.items()})
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_image_weights_load_key_for_key() -> None:
    unet = make_unet()
    model = MaskTemporalUNet.from_unet(unet)
    missing, unexpected = model.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected
    new = ("_time.", "modulations.", "condition_cascade.", "mask_cascade.", "clip_embedding.")
    assert missing
    assert all(any(part in key for part in new) for key in missing)
    with pytest.raises(NuwaError, match="unexpected"):
        model.load_image_state(unet.state_dict() | {"surplus": torch.zeros(1)})


def test_image_unet_comes_back_out_bitwise() -> None:
    unet = make_unet()
    back = MaskTemporalUNet.from_unet(unet).image_unet()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in unet.state_dict().items())
    sample, prompts = torch.randn(1, 4, 8, 8), torch.randn(1, 6, WIDTH)
    with torch.no_grad():
        assert torch.equal(back.eval()(sample, 3, prompts).sample, unet(sample, 3, prompts).sample)


def test_parameters_are_spatial_or_temporal() -> None:
    unet = make_unet()
    model = MaskTemporalUNet.from_unet(unet)
    assert sum(map(torch.numel, model.spatial_parameters())) == unet.num_parameters()
    spatial, temporal = list(model.spatial_parameters()), list(model.temporal_parameters())
    assert len(spatial) + len(temporal) == len(list(model.parameters()))


def test_save_and_load_is_bitwise(tmp_path: Path, stepped: MaskTemporalUNet) -> None:
    stepped.save_pretrained(tmp_path)
    back = MaskTemporalUNet.from_pretrained(tmp_path).eval()
    assert back.state_dict().keys() == stepped.state_dict().keys()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in stepped.state_dict().items())
    with torch.no_grad():
        assert torch.equal(back(**make_inputs()), stepped(**make_inputs()))


def test_autocast_to_bfloat16_works() -> None:
    model = make_mtd()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**make_inputs())
    output.float().square().mean().backward()
    with torch.no_grad():
        exact = model(**make_inputs())
    assert (output.float() - exact).norm() / exact.norm() < 0.05
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_weights_in_bfloat16_work(stepped: MaskTemporalUNet) -> None:
    inputs = make_inputs()
    half = {name: inputs[name].bfloat16() for name in ("sample", "encoder_hidden_states", "condition", "mask")}
    with torch.no_grad():
        exact = stepped(**inputs)
        output = copy.deepcopy(stepped).to(torch.bfloat16)(**(inputs | half))
    assert output.dtype == torch.bfloat16
    assert (output.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D")}, "SimpleCrossAttnDownBlock2D"),
        ({"up_block_types": ("AttnUpBlock2D", "CrossAttnUpBlock2D")}, "AttnUpBlock2D"),
        ({"mid_block_type": "UNetMidBlock2D"}, "UNetMidBlock2D"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"dual_cross_attention": True}, "dual_cross_attention"),
        ({"cross_attention_dim": (WIDTH, WIDTH)}, "one width"),
        ({"in_channels": 9}, "from 9 to 4 channels"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"encoder_hid_dim": 7}, "encoder_hid_dim"),
        ({"mid_block_type": None}, "mid_block_type None"),
    ],
)
def test_unets_that_cannot_be_inflated_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(NuwaError, match=named) as caught:
        MaskTemporalUNet.from_unet(make_unet(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"down_block_types": ["NoSuchBlock"]}, "NoSuchBlock"),
        ({"num_attention_heads": 4}, "num_attention_heads"),
        ({"block_out_channels": [8, 16, 32]}, "block_out_channels"),
        ({"norm_num_groups": 7}, "num_channels"),
        ({"norm_num_groups": 0}, "makes no image U-Net"),
        ({"block_out_channels": []}, "makes no image U-Net"),
    ],
)
def test_configurations_of_no_unet_are_refused_in_one_line(config: dict[str, object], named: str) -> None:
    with pytest.raises(NuwaError, match=named) as caught:
        MaskTemporalUNet(config)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_one_number_is_that_of_every_window() -> None:
    inputs, model = make_inputs(), with_random_weights(make_mtd())
    numbers = model(**(inputs | {"timestep": 7, "stride": 15}))
    tensors = model(**(inputs | {"timestep": torch.tensor([7, 7]), "stride": torch.tensor([15.0, 15.0])}))
    assert torch.equal(numbers, tensors)
    assert not torch.allclose(numbers, model(**(inputs | {"timestep": 7, "stride": 1})))


def test_only_image_unets_are_inflated() -> None:
    with pytest.raises(NuwaError, match="a Linear cannot be inflated; give a UNet2DConditionModel"):
        MaskTemporalUNet.from_unet(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sample": torch.zeros(2, 3, NUM_FRAMES, 8, 8)}, "3 channels"),
        ({"encoder_hidden_states": torch.zeros(2, NUM_FRAMES + 1, 6, WIDTH)}, "encoder_hidden_states"),
        ({"encoder_hidden_states": torch.zeros(2, 6, WIDTH + 1)}, "encoder_hidden_states"),
        ({"condition": torch.zeros(2, 4, NUM_FRAMES, 4, 4)}, "condition of shape"),
        ({"condition": None}, "belong together"),
        ({"mask": torch.zeros(2, 1, NUM_FRAMES, 1, 1)}, "mask of shape"),
        ({"sample": torch.zeros(2, 4, 8, 8)}, "sample of shape"),
        ({"timestep": torch.tensor([1, 2, 3])}, r"timestep of shape \(3,\); give \(2,\)"),
        ({"stride": torch.ones(2, 1)}, "stride of shape"),
        ({"stride": torch.tensor([0.0, 1.0])}, r"stride is \[0.0, 1.0\]; frames lie 1 or more"),
        ({"stride": -1}, "stride is -1"),
        ({"stride": float("nan")}, "stride is nan"),
        ({"stride": float("inf")}, "stride is inf"),
        ({"added_time_ids": torch.zeros(2, 2)}, "added_time_ids of shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | float | None], named: str) -> None:
    with pytest.raises(NuwaError, match=named) as caught:
        make_mtd()(**(make_inputs() | change))
    assert "\n" not in str(caught.value)
