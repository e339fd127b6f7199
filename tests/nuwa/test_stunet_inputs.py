"""What the space-time U-Net is given: known pixels in a real sampler, low precision, and all that does not fit."""

import pytest
import torch
from diffusers import DDIMScheduler

from nuwa.generate.masks import cinemagraph, inpainting
from nuwa.generate.samplers import Sampler, denoise
from nuwa.hierarchy import NuwaError
from nuwa.models.stunet import SpaceTimeUNet
from tests.nuwa.test_stunet import WIDTH, make_inputs, make_unet


@torch.no_grad()
def test_sampling_keeps_every_known_pixel_exactly() -> None:
    model = SpaceTimeUNet.from_unet(make_unet(in_channels=3, out_channels=3))
    video = torch.rand(3, 6, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    region = torch.zeros(8, 8)
    region[2:5, 3:7] = 1
    for known in (inpainting(video, region), cinemagraph(video[:, 0], region, 6)):
        given, mask = known.video[None], known.mask[None]
        prompts = torch.zeros(1, 2, WIDTH)

        def predict(zt: torch.Tensor, steps: torch.Tensor, given=given, mask=mask, prompts=prompts) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return model(zt, steps, prompts, given, mask)

        noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(4))
        sampler = Sampler(DDIMScheduler(clip_sample=False), "ddim", 3, torch.device("cpu"))
        made = denoise(predict, sampler, noise, given, mask, [torch.Generator()])
        inside = mask.bool().expand_as(given)
        assert torch.equal(made[inside], given[inside])
        assert not torch.equal(made[~inside], given[~inside])


@torch.no_grad()
def test_bfloat16_works() -> None:
    model = SpaceTimeUNet.from_unet(make_unet())
    inputs = {name: value.float() for name, value in make_inputs().items()}
    exact = model(**inputs)
    halved = {name: value.bfloat16() if name not in ("timestep", "stride") else value for name, value in inputs.items()}
    output = model.bfloat16()(**halved)
    assert output.dtype == torch.bfloat16
    assert (output.float() - exact).norm() / exact.norm() < 0.1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D")}, "SimpleCrossAttnDown"),
        ({"mid_block_type": "UNetMidBlock2D"}, "UNetMidBlock2D"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"in_channels": 9}, "from 9 to 4 channels"),
    ],
)
def test_unets_that_cannot_be_inflated_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(NuwaError, match=named):
        SpaceTimeUNet.from_unet(make_unet(**options))


@torch.no_grad()
def test_one_number_is_that_of_every_clip() -> None:
    model, inputs = SpaceTimeUNet.from_unet(make_unet().double()), make_inputs()
    for weight in model.clip_embedding.stride.parameters():
        weight += 0.1
    numbers = model(**(inputs | {"timestep": 7, "stride": 15}))
    tensors = model(**(inputs | {"timestep": torch.tensor([7, 7]), "stride": torch.tensor([15.0, 15.0])}))
    assert torch.equal(numbers, tensors)
    assert not torch.allclose(numbers, model(**(inputs | {"timestep": 7, "stride": 1})))


@pytest.mark.parametrize("levels", [-1, 3])
def test_temporal_levels_that_do_not_exist_are_refused(levels: int) -> None:
    with pytest.raises(NuwaError, match="2 times"):
        SpaceTimeUNet.from_unet(make_unet(), temporal_levels=levels)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sample": torch.zeros(2, 3, 8, 8, 8)}, "sample of shape"),
        ({"sample": torch.zeros(2, 4, 8, 8)}, "sample of shape"),
        ({"encoder_hidden_states": torch.zeros(2, 9, 6, WIDTH)}, "encoder_hidden_states"),
        ({"condition": torch.zeros(2, 4, 8, 4, 4)}, "condition of shape"),
        ({"condition": None}, "belong together"),
        ({"mask": torch.zeros(2, 1, 8, 1, 1)}, "mask of shape"),
        ({"timestep": torch.tensor([1, 2, 3])}, r"timestep of shape \(3,\); give \(2,\)"),
        ({"stride": 0}, "stride is 0; frames lie 1 or more"),
        ({"stride": torch.tensor([1.0, -1.0])}, r"stride is \[1.0, -1.0\]"),
        ({"stride": torch.ones(3)}, "stride of shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | float | None], named: str) -> None:
    with pytest.raises(NuwaError, match=named):
        SpaceTimeUNet.from_unet(make_unet().double())(**(make_inputs() | change))


def test_only_image_unets_are_inflated() -> None:
    with pytest.raises(NuwaError, match="a Linear cannot be inflated; give a UNet2DConditionModel"):
        SpaceTimeUNet.from_unet(torch.nn.Linear(1, 1))
