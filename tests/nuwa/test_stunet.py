"""The space-time U-Net (Lumiere Sec. 3.1, App. B): every check in float64, at init and after one step."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from nuwa.hierarchy import NuwaError
from nuwa.models.stunet import SpaceTimeUNet
from nuwa.nn.resampling import InflatedConv, TemporalDownsample, TemporalUpsample
from nuwa.nn.temporal_attention import TemporalAttention

WIDTH = 12


def make_unet(**options: object) -> UNet2DConditionModel:
    """Three levels, so a temporal factor of 4."""
    torch.manual_seed(0)
    defaults: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(defaults | options)).eval()


def make_inputs(num_frames: int = 8, channels: int = 4, size: tuple[int, int] = (8, 8)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, 1, num_frames, *size)
    mask[:, :, 0] = 1
    mask[0, :, :, : size[0] // 2] = 1
    inputs = {
        "sample": torch.randn(2, channels, num_frames, *size, generator=generator),
        "timestep": torch.tensor([7, 500]),
        "encoder_hidden_states": torch.randn(2, num_frames, 6, WIDTH, generator=generator),
        "condition": torch.randn(2, channels, num_frames, *size, generator=generator) * mask,
        "mask": mask,
        "stride": torch.tensor([1.0, 2.0]),
        "added_time_ids": torch.tensor([[16.0, 0.3, 0.0], [16.0, torch.nan, 0.1]]),
    }
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def static(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with every frame, prompt included, that of frame 0."""
    still = dict(inputs)
    for name in ("sample", "condition", "mask"):
        still[name] = inputs[name][:, :, :1].expand_as(inputs[name]).contiguous()
    prompts = inputs["encoder_hidden_states"]
    still["encoder_hidden_states"] = prompts[:, :1].expand_as(prompts).contiguous()
    return still


def framewise(unet: UNet2DConditionModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The image network on every frame, (b c t h w)."""
    frames = [
        unet(inputs["sample"][:, :, frame], inputs["timestep"], inputs["encoder_hidden_states"][:, frame]).sample
        for frame in range(inputs["sample"].shape[2])
    ]
    return torch.stack(frames, dim=2)


def trained(**options: int) -> SpaceTimeUNet:
    """One optimiser step, in float64."""
    model = SpaceTimeUNet.from_unet(make_unet().double(), **options)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    inputs = make_inputs()
    noise = torch.randn(inputs["sample"].shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (model(**inputs) - noise).square().mean().backward()
    optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def stepped() -> SpaceTimeUNet:
    return trained()


SHAPES: list[dict[str, object]] = [
    {},
    {"layers_per_block": 2, "use_linear_projection": True},
    {"in_channels": 3, "out_channels": 3},
    {"block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
     "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
    {"block_out_channels": (8, 8, 16, 16), "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
     "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)},
]  # fmt: skip


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize(("num_frames", "size"), [(8, (8, 8)), (5, (9, 10))])
@torch.no_grad()
def test_static_video_equals_the_frozen_image_network(
    options: dict[str, object], num_frames: int, size: tuple[int, int]
) -> None:
    unet = make_unet(**options).double()
    inputs = static(make_inputs(num_frames, unet.config.in_channels, size))
    difference = SpaceTimeUNet.from_unet(unet)(**inputs) - framewise(unet, inputs)
    assert difference.abs().max() < 1e-12


@torch.no_grad()
def test_a_whole_clip_of_80_static_frames_in_single_precision_differs_by_rounding() -> None:
    unet = make_unet(**SHAPES[4])
    inputs = {name: value.float() for name, value in static(make_inputs(80)).items()}
    expected = unet(inputs["sample"][:, :, 0], inputs["timestep"], inputs["encoder_hidden_states"][:, 0]).sample
    output = SpaceTimeUNet.from_unet(unet).eval()(**inputs)
    assert (output - expected[:, :, None]).norm() / (80**0.5 * expected.norm()) < 1e-6


@torch.no_grad()
def test_at_init_frames_divisible_by_the_temporal_factor_equal_the_image_network() -> None:
    unet, inputs = make_unet().double(), make_inputs(9)
    model = SpaceTimeUNet.from_unet(unet)
    difference = (model(**inputs) - framewise(unet, inputs)).abs().amax(dim=(0, 1, 3, 4))
    assert model.temporal_factor == 4
    assert difference[::4].max() < 1e-12
    assert difference[[1, 2, 3, 5, 6, 7]].min() > 1e-6


def sources(model: SpaceTimeUNet, num_frames: int) -> list[set[int]]:
    """For each frame of the output, the frames of the sample and the prompts that it depends on."""
    inputs = make_inputs(num_frames)
    names = ("sample", "encoder_hidden_states")
    for name in names:
        inputs[name].requires_grad_()
    output = model(**inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for frame in range(num_frames):
        score = (output * weights)[:, :, frame].sum()
        video, prompts = torch.autograd.grad(score, [inputs[name] for name in names], retain_graph=True)
        strength = video.abs().amax(dim=(0, 1, 3, 4)) + prompts.abs().amax(dim=(0, 2, 3))
        found.append(set(strength.nonzero().flatten().tolist()))
    return found


@pytest.mark.parametrize("num_frames", [8, 11])
def test_at_init_frame_i_depends_on_no_frames_but_2_to_the_l_times_floor_of_i(num_frames: int) -> None:
    model = SpaceTimeUNet.from_unet(make_unet().double())
    for frame, found in enumerate(sources(model, num_frames)):
        assert found == {2**level * (frame // 2**level) for level in range(model.temporal_levels + 1)}


def test_after_one_step_the_coarsest_attention_reaches_every_pair_of_frames(stepped: SpaceTimeUNet) -> None:
    for found in sources(stepped, 8):
        assert found == set(range(8))


def test_only_new_parameters_carry_gradients() -> None:
    unet = make_unet().double()
    model = SpaceTimeUNet.from_unet(unet)
    assert not any(parameter.requires_grad for parameter in model.spatial_parameters())
    assert all(parameter.requires_grad for parameter in model.temporal_parameters())
    assert sum(map(torch.numel, model.spatial_parameters())) == unet.num_parameters()
    model(**make_inputs()).square().mean().backward()
    assert all(parameter.grad is None for parameter in model.spatial_parameters())
    # the first step reaches every resampling, and the zero-initialised end of every inflation
    for name, module in model.named_modules():
        if isinstance(module, TemporalDownsample):
            assert module.weight.grad.abs().max() > 0, name
        if isinstance(module, TemporalUpsample):
            assert module.conv.weight.grad.abs().max() > 0, name
        if isinstance(module, InflatedConv):
            assert module.proj_out.weight.grad.abs().max() > 0, name
        if isinstance(module, TemporalAttention):
            assert module.to_out.weight.grad.abs().max() > 0, name
    assert model.conv_in_known.weight.grad.abs().max() > 0


def test_after_two_steps_every_new_parameter_has_learned_and_no_image_weight_has_moved() -> None:
    unet, inputs = make_unet().double(), make_inputs()
    model = SpaceTimeUNet.from_unet(unet)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(**inputs) - inputs["sample"]).square().sum().backward()
        optimizer.step()
    state = unet.state_dict()
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, before[key]) == (key in state), key


def test_convolution_inflation_everywhere_but_at_the_coarsest_level_and_attention_only_there() -> None:
    model = SpaceTimeUNet.from_unet(make_unet())
    for name, module in model.named_modules():
        coarsest = name.startswith(("down_blocks.2", "mid_block", "up_blocks.0"))
        assert not (isinstance(module, InflatedConv) and coarsest), name
        assert not (isinstance(module, TemporalAttention) and not coarsest), name
    assert sum(isinstance(module, InflatedConv) for module in model.modules()) == 2 + 4
    assert sum(isinstance(module, TemporalAttention) for module in model.modules()) == 1 + 1 + 2


@torch.no_grad()
def test_temporal_resampling_follows_each_spatial_one() -> None:
    model, calls = SpaceTimeUNet.from_unet(make_unet()), []
    for name, module in model.named_modules():
        if name.endswith(("downsamplers.0", "upsamplers.0.conv", "down_time", "up_time")):
            module.register_forward_hook(lambda _, __, output, name=name: calls.append((name, len(output))))
    inputs = make_inputs(8)
    model(**{name: value.float() for name, value in inputs.items()})
    assert calls == [
        ("down_blocks.0.downsamplers.0", 16), ("down_blocks.0.down_time", 8),
        ("down_blocks.1.downsamplers.0", 8), ("down_blocks.1.down_time", 4),
        ("up_blocks.0.upsamplers.0.conv", 4), ("up_blocks.0.up_time", 8),
        ("up_blocks.1.upsamplers.0.conv", 8), ("up_blocks.1.up_time", 16),
    ]  # fmt: skip


@torch.no_grad()
def test_a_length_that_the_factor_does_not_divide_is_the_beginning_of_a_longer_clip() -> None:
    model, long = SpaceTimeUNet.from_unet(make_unet().double()), make_inputs(8)
    whole = model(**long)
    for num_frames in (1, 2, 3, 5, 6, 7):
        inputs = dict(long)
        for name in ("sample", "condition", "mask"):
            inputs[name] = long[name][:, :, :num_frames]
        inputs["encoder_hidden_states"] = long["encoder_hidden_states"][:, :num_frames]
        assert (model(**inputs) - whole[:, :, :num_frames]).abs().max() < 1e-12


@torch.no_grad()
def test_any_number_of_frames_once_trained(stepped: SpaceTimeUNet) -> None:
    for num_frames in (1, 3, 80):
        inputs = make_inputs(num_frames, size=(4, 4))
        assert stepped(**inputs).shape == inputs["sample"].shape


@torch.no_grad()
def test_one_prompt_for_the_clip_is_the_same_prompt_for_every_frame(stepped: SpaceTimeUNet) -> None:
    inputs = make_inputs(7)
    clip = inputs["encoder_hidden_states"][:, 0]
    frames = clip[:, None].expand(-1, 7, -1, -1)
    once = stepped(**(inputs | {"encoder_hidden_states": clip}))
    assert torch.equal(stepped(**(inputs | {"encoder_hidden_states": frames})), once)


@pytest.mark.parametrize("name", ["condition", "mask", "timestep", "stride", "added_time_ids"])
@torch.no_grad()
def test_everything_told_matters_after_one_step(stepped: SpaceTimeUNet, name: str) -> None:
    inputs = make_inputs()
    changed = inputs | {name: inputs[name] + 1}
    assert not torch.allclose(stepped(**changed), stepped(**inputs), atol=1e-9)


@torch.no_grad()
def test_a_clip_of_which_nothing_is_given_does_not_read_the_condition(stepped: SpaceTimeUNet) -> None:
    inputs = make_inputs()
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    output = stepped(**inputs)
    assert torch.equal(stepped(**(inputs | {"condition": inputs["condition"] + 1})), output)
    assert torch.equal(stepped(**(inputs | {"condition": None, "mask": None})), output)


@torch.no_grad()
def test_the_input_is_one_convolution_of_noised_video_masked_video_and_mask(stepped: SpaceTimeUNet) -> None:
    inputs = make_inputs()
    seven = torch.cat([inputs[name][:, :, 3] for name in ("sample", "condition", "mask")], dim=1)
    weight = torch.cat([stepped.conv_in.weight, stepped.conv_in_known.weight], dim=1)
    assert weight.shape[1] == 4 + 4 + 1
    assert SpaceTimeUNet.from_unet(make_unet(in_channels=3, out_channels=3)).conv_in_known.in_channels + 3 == 7
    expected = torch.nn.functional.conv2d(seven, weight, stepped.conv_in.bias, padding=1)
    output = stepped._input(inputs["sample"], inputs["condition"], inputs["mask"])
    assert (output[[3, 11]] - expected).abs().max() < 1e-12


def test_gradient_checkpointing_gives_the_same_gradients(stepped: SpaceTimeUNet) -> None:
    inputs, found, runs = make_inputs(7), [], []
    model = copy.deepcopy(stepped)
    model.up_blocks[2].resnets[0].register_forward_hook(lambda *_: runs.append(1))
    for switch in (model.disable_gradient_checkpointing, model.enable_gradient_checkpointing):
        switch()
        model.zero_grad()
        model(**inputs).square().mean().backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad})
    assert len(runs) == 3  # once, then twice
    assert all((found[0][name] - found[1][name]).abs().max() < 1e-12 for name in found[0])


def test_windows_of_a_batch_do_not_see_each_other(stepped: SpaceTimeUNet) -> None:
    inputs = make_inputs()
    with torch.no_grad():
        both, alone = stepped(**inputs), stepped(**{name: value[1:] for name, value in inputs.items()})
    assert (both[1:] - alone).abs().max() < 1e-12


def test_image_weights_load_key_for_key_and_come_back_out_bitwise() -> None:
    unet = make_unet()
    model = SpaceTimeUNet.from_unet(unet)
    missing, unexpected = model.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected
    new = ("_time.", "clip_embedding.", "conv_in_known.")
    assert missing
    assert all(any(part in key for part in new) for key in missing)
    back = model.image_unet().state_dict()
    assert all(torch.equal(value, back[key]) for key, value in unet.state_dict().items())
    with pytest.raises(NuwaError, match="unexpected"):
        model.load_image_state(unet.state_dict() | {"surplus": torch.zeros(1)})


def test_save_and_load_is_bitwise_and_stays_frozen(tmp_path: Path) -> None:
    model = trained(temporal_levels=1).float()
    model.save_pretrained(tmp_path)
    back = SpaceTimeUNet.from_pretrained(tmp_path)
    assert back.temporal_levels == 1
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in model.state_dict().items())
    frozen = {name for name, parameter in back.named_parameters() if not parameter.requires_grad}
    assert frozen == set(make_unet().state_dict())
    inputs = {name: value.float() for name, value in make_inputs().items()}
    with torch.no_grad():
        assert torch.equal(back(**inputs), model(**inputs))


@torch.no_grad()
def test_without_temporal_levels_it_is_the_image_network_frame_by_frame() -> None:
    unet, inputs = make_unet().double(), make_inputs()
    model = SpaceTimeUNet.from_unet(unet, temporal_levels=0)
    assert not any(isinstance(module, TemporalDownsample | TemporalUpsample) for module in model.modules())
    assert (model(**inputs) - framewise(unet, inputs)).abs().max() < 1e-12
