"""A whole NUWA-XL stack of real modules with random weights, small enough for tests: 16 px, windows of 5 frames."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.text import PromptEncoder
from nuwa.models.vae import TemporalVAE

LENGTH = 5
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "red", "blue", "star", "circle", "jumps"]


def build(seed: int = 0, *, shared: bool = True, latent_channels: int = 4, text_width: int = 8) -> NuwaXLPipeline:
    """Every weight is random, those that start at zero too: otherwise temporal layers and condition do nothing."""
    torch.manual_seed(seed)
    unets = [_denoiser(latent_channels, text_width) for _ in range(2 - shared)]
    vae = TemporalVAE.from_image_vae(_image_vae(latent_channels))
    for module in (vae, *unets):
        _break_zero_init(module)
    return NuwaXLPipeline(
        vae=vae.eval(),
        denoiser_global=unets[0].eval(),
        denoiser_local=unets[-1].eval(),
        text_encoder=PromptEncoder(_TEXT_CONFIG | {"width": text_width}, 8).eval(),
        tokenizer=_tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
        window_length=LENGTH,
        train_fps=8.0,
        height=16,
        width=16,
    )


_TEXT_CONFIG = {"context_length": 8, "vocab_size": len(WORDS), "width": 8, "heads": 2, "layers": 1, "pad_id": 0}


def _break_zero_init(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.03 * torch.randn(weight.shape)


def _denoiser(latent_channels: int, text_width: int) -> MaskTemporalUNet:
    return MaskTemporalUNet.from_unet(_unet(latent_channels, text_width), condition_channels=4, mask_channels=4)


def _image_vae(latent_channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        scaling_factor=1.0,
    )


def _unet(latent_channels: int, text_width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=8,
    )
