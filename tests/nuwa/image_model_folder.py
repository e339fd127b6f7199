"""A folder with Stable Diffusion's layout, written by diffusers itself: random weights, small enough for tests."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 8
"""Of a prompt, begin and end included."""


def write_image_model(
    folder: Path, *, text_width: int = 8, prompt_width: int = 8, hidden_act: str = "quick_gelu"
) -> Path:
    """unet, vae, text_encoder, tokenizer, scheduler; `prompt_width` is what the U-Net takes."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=prompt_width,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    pipe = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_model(len(tokenizer), text_width, hidden_act),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def text_model(words: int, width: int = 8, hidden_act: str = "quick_gelu") -> CLIPTextModel:
    """A CLIP text model; its weights are larger than new ones, so that every part of it shows in the result."""
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act=hidden_act,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
    )
    model = CLIPTextModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    return model


def _tokenizer() -> CLIPTokenizer:
    """Every byte, inside a word and at its end: the alphabet that CLIP's vocabulary begins with."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=TOKENS)
