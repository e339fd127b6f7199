"""Real configurations of image networks inflate key for key; on the meta device, so no weights are made."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.vae import IMAGE_OPTIONS, TemporalVAE


def test_unet_of_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        model = MaskTemporalUNet.from_unet(unet)
        latents = torch.zeros(1, 4, 16, 64, 64)
        prompts = torch.zeros(1, 16, 77, 768)
        with torch.no_grad():
            output = model(latents, torch.zeros(1), prompts, latents, latents[:, :1], torch.ones(1))
    assert output.shape == latents.shape
    assert len(unet.state_dict()) == 686
    assert unet.state_dict().keys() <= model.state_dict().keys()


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
