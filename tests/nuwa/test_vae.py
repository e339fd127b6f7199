"""Temporal autoencoder (NUWA-XL Sec. 3.1): the image autoencoder at first, a video autoencoder after a step."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.vae import LatentGaussian, TemporalVAE
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv

NUM_FRAMES = 4


def make_image_vae(attention: bool = False, middle_attention: bool = True) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D")
        + (("AttnDownEncoderBlock2D",) if attention else ("DownEncoderBlock2D",)),
        up_block_types=(("AttnUpDecoderBlock2D",) if attention else ("UpDecoderBlock2D",))
        + ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
        mid_block_add_attention=middle_attention,
    ).eval()


def make_video(batch: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, NUM_FRAMES, 16, 16, generator=generator) * 2 - 1


def trained_vae() -> TemporalVAE:
    """One optimiser step on a reconstruction."""
    vae, video = TemporalVAE.from_image_vae(make_image_vae()), make_video()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    (vae(video, torch.Generator().manual_seed(0)) - video).square().mean().backward()
    optimizer.step()
    return vae.eval()


def leak(function: object, inputs: torch.Tensor, frame: int = 1) -> float:
    """Largest derivative of another frame's output by the input of `frame`: the cross-frame Jacobian."""
    inputs = inputs.clone().requires_grad_()
    output = function(inputs)
    others = [index for index in range(NUM_FRAMES) if index != frame]
    weights = torch.randn(output[:, :, others].shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((output[:, :, others] * weights).sum(), inputs)
    return gradient[:, :, frame].abs().max().item()


def make_sixteen_latents() -> AutoencoderKL:
    """As in newer image models: 16 latent channels and no 1×1 convolutions around them."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def test_an_autoencoder_without_quant_convolutions_inflates_too(tmp_path: Path) -> None:
    image = make_sixteen_latents().double()
    vae, video = TemporalVAE.from_image_vae(image), make_video().double()
    latents = vae.encode(video).mean
    decoded = vae.decode(latents)
    assert latents.shape == (2, 16, NUM_FRAMES, 8, 8)
    for frame in range(NUM_FRAMES):
        expected = image.encode(video[:, :, frame]).latent_dist.mean
        assert (latents[:, :, frame] - expected).abs().max() < 1e-12
        assert (decoded[:, :, frame] - image.decode(expected).sample).abs().max() < 1e-12
    vae.save_pretrained(tmp_path)
    back = TemporalVAE.from_pretrained(tmp_path)
    assert back.quant_conv is None
    assert back.state_dict().keys() == vae.state_dict().keys()


@pytest.mark.parametrize("options", [{}, {"attention": True}, {"middle_attention": False}])
def test_at_init_it_is_the_image_autoencoder_frame_by_frame(options: dict[str, bool]) -> None:
    image = make_image_vae(**options).double()
    vae, video = TemporalVAE.from_image_vae(image), make_video().double()
    gaussian = vae.encode(video)
    decoded = vae.decode(gaussian.mean)
    for frame in range(NUM_FRAMES):
        expected = image.encode(video[:, :, frame]).latent_dist
        assert (gaussian.mean[:, :, frame] - expected.mean).abs().max() < 1e-12
        assert (gaussian.logvar[:, :, frame] - expected.logvar).abs().max() < 1e-12
        assert (decoded[:, :, frame] - image.decode(expected.mean).sample).abs().max() < 1e-12


def test_at_init_in_single_precision_the_difference_is_rounding() -> None:
    image = make_image_vae()
    vae, video = TemporalVAE.from_image_vae(image), make_video()
    with torch.no_grad():
        latents = vae.encode(video).mean
        expected = torch.stack([image.encode(video[:, :, n]).latent_dist.mean for n in range(NUM_FRAMES)], dim=2)
    assert (latents - expected).norm() / expected.norm() < 1e-6


def test_at_init_every_temporal_module_leaves_its_input_bitwise() -> None:
    vae = TemporalVAE.from_image_vae(make_image_vae())
    changed = []

    def compare(module: nn.Module, inputs: tuple[torch.Tensor, int], output: torch.Tensor) -> None:
        changed.append(not torch.equal(inputs[0], output))

    for module in vae.modules():
        if isinstance(module, TemporalConv | TemporalAttention):
            module.register_forward_hook(compare)
    with torch.no_grad():
        vae(make_video())
    assert len(changed) > 20
    assert not any(changed)


def test_cross_frame_jacobian_is_zero_at_init_and_not_after_one_step() -> None:
    vae = TemporalVAE.from_image_vae(make_image_vae())
    latents = torch.randn(2, 4, NUM_FRAMES, 4, 4)
    assert leak(lambda video: vae.encode(video).mean, make_video()) == 0
    assert leak(vae.decode, latents) == 0
    vae = trained_vae()
    assert leak(lambda video: vae.encode(video).mean, make_video()) > 1e-6
    assert leak(vae.decode, latents) > 1e-6


def test_every_spatial_convolution_and_attention_has_its_temporal_one() -> None:
    vae = TemporalVAE.from_image_vae(make_image_vae(attention=True))
    modules = list(vae.modules())
    spatial = [each for each in modules if isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1)]
    assert len(spatial) == sum(isinstance(each, TemporalConv) for each in modules)
    num_attentions = sum(isinstance(each, Attention) for each in modules)
    assert num_attentions == sum(isinstance(each, TemporalAttention) for each in modules) > 2


def test_image_weights_load_key_for_key() -> None:
    image = make_image_vae(attention=True)
    vae = TemporalVAE.from_image_vae(image)
    missing, unexpected = vae.load_state_dict(image.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all("_time." in key for key in missing)
    state = image.state_dict()
    state.pop("encoder.conv_in.weight")
    with pytest.raises(NuwaError, match=r"encoder\.conv_in\.weight"):
        vae.load_image_state(state)


def test_image_vae_comes_back_out_bitwise() -> None:
    image = make_image_vae()
    back = TemporalVAE.from_image_vae(image).image_vae()
    assert dict(back.config) | {"_use_default_values": 0} == dict(image.config) | {"_use_default_values": 0}
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in image.state_dict().items())


def test_parameters_are_spatial_or_temporal() -> None:
    image = make_image_vae()
    vae = TemporalVAE.from_image_vae(image)
    spatial, temporal = list(vae.spatial_parameters()), list(vae.temporal_parameters())
    assert sum(map(torch.numel, spatial)) == image.num_parameters()
    assert len(spatial) + len(temporal) == len(list(vae.parameters()))


def test_save_and_load_is_bitwise(tmp_path: Path) -> None:
    vae = trained_vae()
    vae.register_to_config(scaling_factor=0.75)
    vae.save_pretrained(tmp_path)
    back = TemporalVAE.from_pretrained(tmp_path)
    assert back.config.scaling_factor == 0.75
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    assert back.state_dict().keys() == vae.state_dict().keys()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in vae.state_dict().items())
    with torch.no_grad():
        assert torch.equal(back.encode(make_video()).mean, vae.encode(make_video()).mean)


def test_shapes_factor_and_single_frames() -> None:
    vae = trained_vae()
    latents = vae.encode(make_video()).mode()
    assert vae.downsample_factor == 4
    assert latents.shape == (2, 4, NUM_FRAMES, 4, 4)
    assert vae.decode(latents[:, :, :1]).shape == (2, 3, 1, 16, 16)


def test_videos_of_a_batch_do_not_see_each_other() -> None:
    """Trained, normalisation included: groups are taken over one frame, never over a batch or a clip."""
    vae = trained_vae().double()
    both = vae.encode(make_video().double()).mean
    alone = vae.encode(make_video().double()[1:]).mean
    assert (both[1:] - alone).abs().max() < 1e-12


def test_normalisation_never_mixes_frames() -> None:
    """With the temporal modules back at the identity, a trained network has no path between frames."""
    vae = trained_vae()
    fresh = TemporalVAE.from_image_vae(vae.image_vae())
    assert leak(lambda video: fresh.encode(video).mean, make_video() * 10) == 0


def test_draws_come_from_the_generator_only() -> None:
    gaussian = LatentGaussian(torch.zeros(1, 4, 2, 8, 8), torch.full((1, 4, 2, 8, 8), 2.0))
    first, again = (gaussian.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.std().item() == pytest.approx(2.718, rel=0.15)
    assert LatentGaussian(torch.zeros(3, 4, 2, 8, 8), torch.zeros(3, 4, 2, 8, 8)).kl().tolist() == [0, 0, 0]


def test_autocast_to_bfloat16_works() -> None:
    vae, video = trained_vae(), make_video()
    with torch.autocast("cpu", torch.bfloat16):
        loss = (vae(video, torch.Generator().manual_seed(0)) - video).square().mean()
    loss.backward()
    assert loss.isfinite()


def test_what_does_not_fit_is_refused() -> None:
    vae = TemporalVAE.from_image_vae(make_image_vae())
    with pytest.raises(NuwaError, match="multiples of 4"):
        vae.encode(torch.zeros(1, 3, 2, 16, 18))
    with pytest.raises(NuwaError, match="5 channels"):
        vae.decode(torch.zeros(1, 5, 2, 4, 4))
    with pytest.raises(NuwaError, match="ResnetDownsampleBlock2D"):
        TemporalVAE(down_block_types=("ResnetDownsampleBlock2D",))


def test_a_shifted_autoencoder_is_refused() -> None:
    image = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, shift_factor=0.1)
    with pytest.raises(NuwaError, match="shift_factor"):
        TemporalVAE.from_image_vae(image)
