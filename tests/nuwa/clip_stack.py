"""Whole pipelines of the space-time U-Net with random weights, small enough for tests: 16 px, clips of 8 frames.

One of pixels and one of latents; the super-resolution doubles the size. The temporal factor is 4.
"""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.models.ssr import SuperResolutionUNet
from nuwa.models.stunet import SpaceTimeUNet
from tests.nuwa import stack

LENGTH, FACTOR, SIZE = 8, 4, 16


def make_unet(channels: int, seed: int = 0, width: int = 8) -> UNet2DConditionModel:
    """An image U-Net of three levels."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(width, 2 * width, 2 * width),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def build(*, latents: bool = False, ssr: bool = False, seed: int = 0) -> StunetPipeline:
    """Weights that start at zero are random too: otherwise temporal layers and what is known do nothing."""
    other = stack.build(seed)
    channels = 4 if latents else 3
    torch.manual_seed(seed)
    stunet = SpaceTimeUNet.from_unet(make_unet(channels, seed))
    large = SuperResolutionUNet.from_unet(make_unet(channels, seed + 1)) if ssr else None
    for network in (stunet, *([large] if large is not None else [])):
        with torch.no_grad():
            for weight in network.temporal_parameters():
                weight += 0.03 * torch.randn(weight.shape)
    return StunetPipeline(
        stunet=stunet.eval(),
        text_encoder=other.text_encoder,
        tokenizer=other.tokenizer,
        scheduler=DDIMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
        vae=other.vae if latents else None,
        ssr=None if large is None else large.eval(),
        window_length=LENGTH,
        train_fps=4.0,
        height=SIZE,
        width=SIZE,
        ssr_scale=2,
        ssr_length=4,
    )
