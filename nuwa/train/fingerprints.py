"""Hashes of what a training depends on and does not change: of weights and settings, wherever they lie."""

import hashlib
import json
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn

from nuwa.generate.folder_pipeline import FolderPipeline
from nuwa.models.vae import TemporalVAE


def autoencoder_hash(vae: TemporalVAE | AutoencoderKL) -> str:
    """SHA-256 of all that scaled latents depend on: encoder and scale. A decoder that learns leaves latents valid."""
    parts = ("encoder.", "quant_conv.")
    tensors = ((name, tensor) for name, tensor in vae.state_dict().items() if name.startswith(parts))
    return _hash(type(vae).__name__, vae.config, tensors)


def prompt_encoder_hash(pipe: FolderPipeline) -> str:
    """SHA-256 of all that tokens of prompts depend on: text encoder and tokenizer."""
    tokenizer = json.loads(pipe.tokenizer.backend_tokenizer.to_str())
    settings = {name: value for name, value in tokenizer.items() if name not in ("padding", "truncation")}  # of a call
    settings |= {"model_max_length": pipe.tokenizer.model_max_length, "pad": pipe.tokenizer.pad_token_id}
    encoder = pipe.text_encoder
    return _hash(json.dumps(settings, sort_keys=True), encoder.config, encoder.state_dict().items())


def frozen_hash(module: nn.Module) -> str:
    """SHA-256 of the weights of a network that do not train, which no checkpoint holds."""
    return _hash("frozen", {}, ((name, each) for name, each in module.named_parameters() if not each.requires_grad))


def schedule_hash(scheduler: DDIMScheduler) -> str:
    """SHA-256 of what a denoiser learns of a scheduler: how much noise at which step, and what to predict."""
    return _hash(scheduler.config.prediction_type, {}, [("alphas_cumprod", scheduler.alphas_cumprod)])


def _hash(about: str, config: dict, tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    settings = {name: value for name, value in config.items() if not name.startswith("_")}  # those tell where it lay
    digest = hashlib.sha256(f"{about}\0{json.dumps(settings, sort_keys=True, default=str)}".encode())
    for name, tensor in sorted(tensors):
        digest.update(f"\0{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
