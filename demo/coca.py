"""The small CoCa of the demo: open_clip's own architecture, a small config, a word tokenizer.

A saved folder (`save_model`) holds everything needed to load it without this module:
open_clip's `local-dir:` files and a Hugging Face tokenizer.
"""

import json
import logging
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from demo import world

NAME = "toon-coca"
CONFIG_FILE = Path(__file__).parent / "model_configs" / f"{NAME}.json"
SPECIAL_IDS = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def model_config() -> dict[str, object]:
    """open_clip's model config of the small CoCa, registered under `NAME`."""
    open_clip.add_model_config(CONFIG_FILE)
    config: dict[str, object] = open_clip.get_model_config(NAME)
    return config


def vocabulary() -> list[str]:
    """All words, specials first: captions, prepositions, and the connectives that merged captions use."""
    phrases = [*world.SHAPES, *world.COLOURS, *world.PLACES, *world.ACTIONS, *world.QUALITIES]
    phrases += ["a in on the and with is of at from to then while who that picture video frame it as ,", "."]
    words = sorted({word for phrase in phrases for word in phrase.split()})
    return [*SPECIAL_IDS, *words]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer: lower case, white space, `<bos> words <eos>` padded to the context length."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary())}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(word, SPECIAL_IDS[word]) for word in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=context_length(),
    )


def context_length() -> int:
    """Tokens per caption, specials included."""
    return int(json.loads(CONFIG_FILE.read_text())["text_cfg"]["context_length"])


def create_model(seed: int = 0) -> nn.Module:
    """A CoCa with random weights."""
    model_config()
    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(seed)
    model: nn.Module = open_clip.create_model(NAME)
    # open_clip leaves this matrix uninitialised, because its CoCa is always loaded from a checkpoint.
    projection = model.get_parameter("text_decoder.text_projection")
    nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    return model


def save_model(model: nn.Module, folder: Path) -> None:
    """Write config, half-precision weights and tokenizer, loadable as `local-dir:{folder}`."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(folder)
    config = {"model_cfg": model_config(), "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill `model` with the weights that `save_model` wrote."""
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
