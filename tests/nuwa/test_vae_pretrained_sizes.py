"""The temporal autoencoder at Stable Diffusion's size: (128, 256, 512, 512), 4 latents, weights key for key."""

import pytest
import torch
from diffusers import AutoencoderKL

from nuwa.models.vae import TemporalVAE
from nuwa.models.vae_chunks import Pieces, decode_chunked, reach
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv

SIDE = 16


@pytest.fixture(scope="module")
def image() -> AutoencoderKL:
    """Random weights in the architecture of Stable Diffusion 1 and 2 (and, but for `scaling_factor`, XL)."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
    ).eval()


@pytest.fixture(scope="module")
def vae(image: AutoencoderKL) -> TemporalVAE:
    return TemporalVAE.from_image_vae(image).eval()


def test_it_is_stable_diffusions(image: AutoencoderKL, vae: TemporalVAE) -> None:
    assert image.num_parameters() == 83_653_863
    assert vae.downsample_factor == 8
    assert vae.config.scaling_factor == 0.18215


def test_weights_load_key_for_key_and_come_back_out(image: AutoencoderKL, vae: TemporalVAE) -> None:
    inflated, state = vae.state_dict(), image.state_dict()
    assert all(torch.equal(weight, inflated[key]) for key, weight in state.items())
    assert all("_time." in key for key in inflated.keys() - state.keys())
    assert vae.image_vae().state_dict().keys() == state.keys()


def test_every_spatial_convolution_and_attention_has_its_temporal_one(vae: TemporalVAE) -> None:
    for half, convolutions in ((vae.encoder, 1 + 4 * 4 + 3 + 4 + 1), (vae.decoder, 1 + 4 + 4 * 6 + 3 + 1)):
        spatial = [m for m in half.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
        assert len(spatial) == sum(isinstance(m, TemporalConv) for m in half.modules()) == convolutions
        assert sum(isinstance(m, TemporalAttention) for m in half.modules()) == 1
        assert reach(half) is None


@torch.no_grad()
def test_at_init_it_is_the_image_autoencoder_frame_by_frame(image: AutoencoderKL, vae: TemporalVAE) -> None:
    video = torch.rand(1, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = vae.encode(video).mean
    decoded = vae.decode(latents)
    expected = torch.stack([image.encode(video[:, :, n]).latent_dist.mean for n in range(3)], dim=2)
    frames = torch.stack([image.decode(expected[:, :, n]).sample for n in range(3)], dim=2)
    assert (latents - expected).norm() < 1e-5 * expected.norm()
    assert (decoded - frames).norm() < 1e-5 * frames.norm()
    chunked = decode_chunked(vae, latents, Pieces(frames=2, overlap=1))
    assert (chunked - decoded).norm() < 1e-5 * frames.norm()
