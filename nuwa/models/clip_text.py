"""The text tower of Stable Diffusion, transformers' `CLIPTextModel`, as a `PromptEncoder`: same tokens, our module."""

from collections.abc import Mapping

import torch
from transformers import CLIPTextConfig

from nuwa.hierarchy import NuwaError
from nuwa.models.text import PromptEncoder

ACTIVATIONS = {"quick_gelu": True, "gelu": False}
"""Of `hidden_act`: whether open_clip calls it quick."""
UNUSED = ("embeddings.position_ids", "text_projection.weight")
"""Entries that weights may have beside those of the tower."""


def prompt_encoder_from_clip(config: CLIPTextConfig, state: Mapping[str, torch.Tensor]) -> PromptEncoder:
    """A frozen encoder that gives the last hidden states of the CLIP text model, which Stable Diffusion's U-Net reads.

    state: weights of a `CLIPTextModel`, of any version of transformers
    Raises NuwaError for an activation that open_clip's tower lacks, and for weights that are not those of `config`.
    """
    if config.hidden_act not in ACTIVATIONS:
        known = " or ".join(ACTIVATIONS)
        raise NuwaError(f"hidden_act is {config.hidden_act!r}, which open_clip's text tower lacks; it must be {known}")
    text = {
        "context_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "layers": config.num_hidden_layers,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "norm_kwargs": {"eps": config.layer_norm_eps},
        "proj_type": "none",  # the pooled embedding is for comparison with images
    }
    encoder = PromptEncoder(text, config.hidden_size, ACTIVATIONS[config.hidden_act])
    theirs = {name.removeprefix("text_model."): weight.float() for name, weight in state.items()}
    try:
        encoder.text_model.load_state_dict(_renamed(theirs, config.num_hidden_layers))
    except KeyError as error:
        raise NuwaError(f"weights lack {error}; copy them again") from error
    except RuntimeError as error:
        line = " ".join(str(error).split("\n")[-1].split())
        raise NuwaError(f"weights and configuration disagree ({line}); copy both again") from error
    return encoder.eval()


def _renamed(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Weights of a `CLIPTextModel` under the names that open_clip has for them. NuwaError where some are left over."""
    left = {name: weight for name, weight in state.items() if name not in UNUSED}
    renamed = {
        "token_embedding.weight": left.pop("embeddings.token_embedding.weight"),
        "positional_embedding": left.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": left.pop("final_layer_norm.weight"),
        "ln_final.bias": left.pop("final_layer_norm.bias"),
    }
    parts = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for layer in range(layers):
        ours, theirs = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            renamed |= {f"{ours}.{new}.{kind}": left.pop(f"{theirs}.{old}.{kind}") for new, old in parts.items()}
            projections = [left.pop(f"{theirs}.self_attn.{name}_proj.{kind}") for name in "qkv"]
            renamed[f"{ours}.attn.in_proj_{kind}"] = torch.cat(projections)
    if left:
        raise NuwaError(
            f"weights and configuration disagree ({min(left)} is not of its {layers} layers); copy both again"
        )
    return renamed
