"""Super-resolution (Lumiere Sec. 3.2): the inflated network, and a video made large window by window."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from nuwa.generate.multidiffusion import Tiling
from nuwa.generate.super_resolution import Upsampling, upsample_video
from nuwa.hierarchy import NuwaError
from nuwa.models.ssr import SuperResolutionUNet, augmented, enlarged
from nuwa.models.stunet import SpaceTimeUNet
from tests.nuwa.test_stunet import WIDTH, framewise, make_inputs, make_unet


def make_ssr_inputs(num_frames: int = 5) -> dict[str, torch.Tensor]:
    inputs = make_inputs(num_frames, channels=3)
    del inputs["mask"]
    return inputs


def make_concat_unet() -> UNet2DConditionModel:
    """An image super-resolution network: noised image and enlarged one in, noise out."""
    return make_unet(in_channels=6, out_channels=3).double()


@torch.no_grad()
def test_at_init_it_is_the_image_network_frame_by_frame_and_reads_no_condition() -> None:
    unet, inputs = make_unet(in_channels=3, out_channels=3).double(), make_ssr_inputs()
    model = SuperResolutionUNet.from_unet(unet)
    assert (model(**inputs) - framewise(unet, inputs)).abs().max() < 1e-12
    changed = inputs | {"condition": inputs["condition"] + 1}
    assert torch.equal(model(**changed), model(**inputs))


@torch.no_grad()
def test_a_pretrained_network_of_both_images_keeps_its_concatenation() -> None:
    unet, inputs = make_concat_unet(), make_ssr_inputs()
    model = SuperResolutionUNet.from_unet(unet)
    both = inputs | {"sample": torch.cat([inputs["sample"], inputs["condition"]], dim=1)}
    assert (model(**inputs) - framewise(unet, both)).abs().max() < 1e-12


@pytest.mark.parametrize("levels", [0, None])
def test_locality_at_init(levels: int | None) -> None:
    model = SuperResolutionUNet.from_unet(make_concat_unet(), temporal_levels=levels)
    inputs = make_ssr_inputs(8)
    inputs["condition"].requires_grad_()
    output = model(**inputs)
    for frame in range(8):
        score = output[:, :, frame].square().sum()
        (gradient,) = torch.autograd.grad(score, inputs["condition"], retain_graph=True)
        found = set(gradient.abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten().tolist())
        assert found == {2**level * (frame // 2**level) for level in range(1 + model.temporal_levels)}


@pytest.mark.parametrize("unet", [make_unet(in_channels=3, out_channels=3).double(), make_concat_unet()])
def test_only_new_parameters_train_and_everything_told_matters_after_one_step(unet: UNet2DConditionModel) -> None:
    model, inputs = SuperResolutionUNet.from_unet(unet), make_ssr_inputs()
    trains = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trains == model.state_dict().keys() - unet.state_dict().keys()
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    (model(**inputs) - inputs["condition"]).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        output = model(**inputs)
        for name in ("condition", "added_time_ids", "timestep", "encoder_hidden_states"):
            assert (model(**(inputs | {name: inputs[name] + 1})) - output).abs().max() > 1e-6
        changed = inputs["sample"].clone()
        changed[:, :, 2] += 1
        difference = (model(**(inputs | {"sample": changed})) - output).abs().amax(dim=(0, 1, 3, 4))
    assert difference.min() > 1e-6  # frames mix now


@pytest.mark.parametrize("channels", [3, 6])
def test_save_and_load_is_bitwise_and_stays_frozen(tmp_path: Path, channels: int) -> None:
    model = SuperResolutionUNet.from_unet(make_unet(in_channels=channels, out_channels=3))
    with torch.no_grad():
        for weight in model.temporal_parameters():
            weight += 0.1
    model.save_pretrained(tmp_path)
    back = SuperResolutionUNet.from_pretrained(tmp_path)
    assert back.temporal_levels == 0
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in model.state_dict().items())
    assert not any(one.requires_grad for one in back.spatial_parameters())
    image = model.image_unet().state_dict()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in image.items())
    inputs = {name: value.float() for name, value in make_ssr_inputs().items()}
    with torch.no_grad():
        assert torch.equal(back(**inputs), model.eval()(**inputs))


def test_noise_augmentation_keeps_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    condition, eps = torch.randn(2, 3, 1, 4, 64, 64, generator=generator, dtype=torch.float64)
    noised = augmented(condition, torch.tensor([0.0, 0.6, 1.0]), eps)
    assert torch.equal(noised[0], condition[0])
    assert (noised[1] - (0.8 * condition[1] + 0.6 * eps[1])).abs().max() < 1e-6
    assert torch.equal(noised[2], eps[2])
    assert (noised[1].var() - 1).abs() < 0.05
    with pytest.raises(NuwaError, match="outside 0 to 1"):
        augmented(condition, torch.tensor([0.0, 1.2, 0.0]), eps)


def test_enlarging_keeps_a_linear_picture_and_every_frame_apart() -> None:
    ramp = torch.arange(8, dtype=torch.float64).expand(2, 3, 4, 8, 8).contiguous()
    large = enlarged(ramp, 32, 16)
    assert large.shape == (2, 3, 4, 32, 16)
    assert (large[..., 1:].diff(dim=-1)[..., 1:-2] - 0.5).abs().max() < 1e-12
    ramp[:, :, 2] += 1
    difference = (enlarged(ramp, 32, 16) - large).abs().amax(dim=(0, 1, 3, 4))
    assert (difference > 0).tolist() == [False, False, True, False]


class Oracle:
    """Knows that the sharp video is the enlarged one plus 0.25, and writes down what it was shown."""

    def __init__(self) -> None:
        self.shapes: set[torch.Size] = set()
        self.told: set[float] = set()

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        added_time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert condition is not None
        assert added_time_ids is not None
        assert mask is None
        self.shapes.add(sample.shape)
        self.told |= set(added_time_ids[:, 2].tolist())
        abar = DDIMScheduler().alphas_cumprod[timestep].reshape(-1, 1, 1, 1, 1)
        return (sample - abar.sqrt() * (condition + 0.25)) / (1 - abar).sqrt()


def test_a_video_is_made_large_window_by_window() -> None:
    oracle, small = Oracle(), torch.rand(2, 3, 11, 6, 6, generator=torch.Generator().manual_seed(2)) - 0.5
    large = enlarged(small, 12, 12)
    tiling = Tiling(frames=4, frame_overlap=2, tile=8, tile_overlap=4, batch=3)
    upsampling = Upsampling(steps=4, noise_augmentation=0.0, tiling=tiling)
    scheduler = DDIMScheduler(clip_sample=False)
    made = upsample_video(oracle, scheduler, large, torch.zeros(2, 11, 1, 4), torch.zeros(1, 4), upsampling)
    assert (made - large - 0.25).abs().max() < 1e-5
    assert {shape[1:] for shape in oracle.shapes} == {torch.Size([3, 4, 8, 8])}
    assert max(shape[0] for shape in oracle.shapes) == 3
    assert oracle.told == {0.0}


def test_the_network_is_told_of_the_noise_on_what_it_sees() -> None:
    oracle, large = Oracle(), torch.zeros(1, 3, 4, 8, 8)
    scheduler, upsampling = DDIMScheduler(clip_sample=False), Upsampling(steps=2, noise_augmentation=0.5)
    made = upsample_video(oracle, scheduler, large, torch.zeros(1, 1, 4), torch.zeros(1, 4), upsampling)
    assert oracle.told == {0.5}
    assert ((made - 0.25).std() - 0.5).abs() < 0.1  # the oracle followed the noise


def test_a_real_network_guided_depends_on_seed_and_number_in_the_batch_only() -> None:
    model = SuperResolutionUNet.from_unet(make_unet(in_channels=6, out_channels=3)).eval()
    large = torch.rand(2, 3, 6, 8, 8, generator=torch.Generator().manual_seed(2)) - 0.5
    prompts, null = torch.randn(2, 3, 2, WIDTH, generator=torch.Generator().manual_seed(3))
    scheduler = DDIMScheduler(clip_sample=False)

    def made(videos: torch.Tensor, seed: int = 0, batch: int = 4) -> torch.Tensor:
        tiling = Tiling(frames=4, batch=batch)
        upsampling = Upsampling(steps=2, guidance=2.0, seed=seed, tiling=tiling)
        return upsample_video(model, scheduler, videos, prompts[: len(videos)], null[0], upsampling)

    both = made(large)
    assert both.shape == large.shape
    assert torch.equal(made(large), both)
    assert (made(large[:1]) - both[:1]).abs().max() < 1e-4
    assert (made(large, batch=1) - both).abs().max() < 1e-4
    assert not torch.allclose(made(large, seed=1), both, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"noise_augmentation": 1.5}, "noise_augmentation is 1.5"),
        ({"fps": 0.0}, "fps is 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(NuwaError, match=named):
        Upsampling(**options)


def test_networks_and_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NuwaError, match="from 7 to 4 channels"):
        SuperResolutionUNet.from_unet(make_unet(in_channels=7, out_channels=4))
    with pytest.raises(NuwaError, match="both numbers"):
        SpaceTimeUNet.from_unet(make_concat_unet())
    model, inputs = SuperResolutionUNet.from_unet(make_concat_unet()), make_ssr_inputs()
    for change in ({"condition": None}, {"mask": torch.zeros(2, 1, 5, 8, 8)}):
        with pytest.raises(NuwaError, match="enlarged video as condition, and no mask"):
            model(**(inputs | change))
    with pytest.raises(NuwaError, match="condition of shape"):
        model(**(inputs | {"condition": torch.zeros(2, 3, 5, 4, 4)}))
