"""What a training starts from: a pipeline folder, an image model to inflate, or new components of a preset's size."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nuwa.data.runs import Run
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.text import PromptEncoder
from nuwa.models.vae import TemporalVAE
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.image_pipeline import check_frame_size, inflated_pipeline
from nuwa.train.init_folder import is_image_pipeline

DEMO_TEXT_ENCODER = Path(__file__).parents[2] / "demo" / "weights" / "coca"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths of the two image networks; the autoencoder shrinks by 2 per width after the first.

    attention: whether the U-Net's layers of that width attend to pixels and prompts, finest first
    """

    vae_channels: tuple[int, ...]
    vae_layers: int
    unet_channels: tuple[int, ...]
    attention: tuple[bool, ...]
    unet_layers: int
    heads: int
    norm_groups: int


PRESETS = {
    "toy": Sizes(
        vae_channels=(32, 64, 64),
        vae_layers=1,
        unet_channels=(64, 128),
        attention=(True, True),
        unet_layers=1,
        heads=4,
        norm_groups=16,
    ),
    "base": Sizes(
        vae_channels=(64, 128, 256),
        vae_layers=2,
        unet_channels=(256, 512, 768),
        attention=(True, True, True),
        unet_layers=2,
        heads=8,
        norm_groups=32,
    ),
    "large": Sizes(
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        unet_channels=(320, 640, 1280, 1280),
        attention=(True, True, True, False),
        unet_layers=2,
        heads=8,
        norm_groups=32,
    ),
}
"""toy: 32 px on a CPU. base: a denoiser of about 310 million weights, for one GPU. large: Stable Diffusion 1.5's."""
LATENT_CHANNELS = 4


def starting_pipeline(config: TrainConfig, run: Run) -> NuwaXLPipeline:
    """What `config` starts from, for runs like `run`. Raises NuwaError for a folder that cannot be taken up."""
    if config.init is None:
        return build_pipeline(config, run)
    return inflated_pipeline(config, run) if is_image_pipeline(config.init) else load_pipeline(config.init)


def build_pipeline(config: TrainConfig, run: Run) -> NuwaXLPipeline:
    """A pipeline of untrained networks for runs like `run`, with the text tower of `config.text_encoder`."""
    sizes = PRESETS[config.preset]
    factor = 2 ** (len(sizes.vae_channels) - 1)
    check_frame_size(run, factor * 2 ** (len(sizes.unet_channels) - 1), f"preset {config.preset}")
    text_encoder, tokenizer = load_text_encoder(config.text_encoder or DEMO_TEXT_ENCODER)
    torch.manual_seed(config.seed)
    vae = TemporalVAE.from_image_vae(image_vae(sizes, run.height))
    unet = image_unet(sizes, run.height // factor, _width(text_encoder))
    return NuwaXLPipeline(
        vae=vae,
        denoiser_global=MaskTemporalUNet.from_unet(unet, injection=config.injection),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=new_scheduler(config.prediction_type),
        window_length=config.window_length,
        train_fps=run.train_fps,
        height=run.height,
        width=run.width,
    )


def load_text_encoder(folder: Path) -> tuple[PromptEncoder, PreTrainedTokenizerFast]:
    """Text tower and tokenizer of an open_clip model folder, frozen."""
    if not (folder / "open_clip_config.json").is_file():
        raise TrainError(
            f"text encoder {folder} has no open_clip_config.json; give an open_clip model folder by --text-encoder, "
            "or a pipeline folder by --init"
        )
    text_encoder = PromptEncoder.from_open_clip(folder).eval().requires_grad_(False)
    try:
        return text_encoder, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainError(
            f"tokenizer of text encoder {folder} cannot be read ({error}); copy the folder anew"
        ) from error


def new_scheduler(prediction_type: str) -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled to end in pure noise (Lin et al. 2023, arXiv 2305.08891), so that the
    first sampling step sees what training saw. Paper: not stated.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
        timestep_spacing="trailing",
    )


def _width(text_encoder: PromptEncoder) -> int:
    return int(text_encoder(torch.zeros(1, 4, dtype=torch.long)).shape[-1])


def image_vae(sizes: Sizes, height: int) -> AutoencoderKL:
    """An image autoencoder, weights random, for frames of `height` px."""
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae_channels,
        layers_per_block=sizes.vae_layers,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=sizes.norm_groups,
        sample_size=height,
        scaling_factor=1.0,
    )


def image_unet(sizes: Sizes, latent_height: int, text_width: int) -> UNet2DConditionModel:
    """A text-to-image U-Net, weights random, for latents of `latent_height` and prompt tokens of `text_width`."""
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in sizes.attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(sizes.attention)]
    return UNet2DConditionModel(
        sample_size=latent_height,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=sizes.unet_channels,
        layers_per_block=sizes.unet_layers,
        cross_attention_dim=text_width,
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.norm_groups,
    )
