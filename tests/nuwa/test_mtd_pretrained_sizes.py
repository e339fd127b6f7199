"""Real configurations of image networks inflate key for key; on the meta device, so no weights are made."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.vae import IMAGE_OPTIONS, TemporalVAE

STABLE_DIFFUSION: dict[str, dict[str, object]] = {
    "1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "2.1": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}


@pytest.mark.parametrize("version", list(STABLE_DIFFUSION))
def test_unet_of_stable_diffusion(version: str) -> None:
    options = STABLE_DIFFUSION[version]
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **options)
        model = MaskTemporalUNet.from_unet(unet)
        latents = torch.zeros(1, 4, 16, 64, 64)
        prompts = torch.zeros(1, 16, 77, options["cross_attention_dim"])
        with torch.no_grad():
            output = model(latents, torch.zeros(1), prompts, latents, latents[:, :1], torch.ones(1))
    assert output.shape == latents.shape
    assert len(unet.state_dict()) == 686
    assert unet.state_dict().keys() <= model.state_dict().keys()
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    assert all(shapes[name] == weight.shape for name, weight in unet.state_dict().items())


def test_temporal_attention_has_the_heads_of_the_spatial_one_beside_it() -> None:
    with torch.device("meta"):
        model = MaskTemporalUNet.from_unet(UNet2DConditionModel(**STABLE_DIFFUSION["2.1"]))
    heads = [[part.num_heads for part in block.attn_time] for block in model.down_blocks if block.has_attention]
    assert heads == [[5, 5], [10, 10], [20, 20]]
    assert [part.num_heads for part in model.mid_block.attn_time] == [20]
    heads = [[part.num_heads for part in block.attn_time] for block in model.up_blocks if block.has_attention]
    assert heads == [[20] * 3, [10] * 3, [5] * 3]


def test_autoencoder_of_stable_diffusion() -> None:
    with torch.device("meta"):
        image = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        vae = TemporalVAE(**{name: image.config[name] for name in IMAGE_OPTIONS})
        with torch.no_grad():
            decoded = vae.decode(torch.zeros(1, 4, 2, 8, 8))
    assert vae.downsample_factor == 8
    assert decoded.shape == (1, 3, 2, 64, 64)
    assert image.state_dict().keys() <= vae.state_dict().keys()
