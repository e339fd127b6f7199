"""Loading of open_clip models from local files, with the tokenizer and picture preparation that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from curation.config import CaptionConfig, EmbedConfig
from curation.model_files import ModelFileError, open_clip_files


@dataclass(frozen=True)
class WordTokenizer:
    """Text to padded ids and back, the same face for open_clip's own tokenizer and for a tokenizer.json."""

    encoder: Any
    start_id: int
    end_id: int
    pad_id: int
    context_length: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Ids (n context_length) int64, start and end token included, padded or truncated."""
        if isinstance(self.encoder, PreTrainedTokenizerFast):
            padded = self.encoder(list(texts), padding="max_length", truncation=True, max_length=self.context_length)
            return torch.tensor(padded.input_ids, dtype=torch.int64)
        return torch.as_tensor(self.encoder(list(texts), context_length=self.context_length))

    def decode(self, ids: Sequence[int]) -> str:
        """The words of `ids` up to the first end token, start and padding left out."""
        ids = [int(token) for token in ids]
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        words = self.encoder.decode([token for token in ids if token not in (self.start_id, self.pad_id)])
        return " ".join(str(words).split())


@dataclass(frozen=True)
class OpenClip:
    """An open_clip model in evaluation mode with what it needs to read pictures and text."""

    model: Any
    prepare: Any
    tokenizer: WordTokenizer
    device: torch.device

    @property
    def crops(self) -> bool:
        """Whether preparation cuts a picture to its centre square; otherwise it squashes it."""
        return self.model.visual.preprocess_cfg["resize_mode"] == "shortest"

    def pictures(self, images: Sequence[np.ndarray]) -> Tensor:
        """Resize, crop and normalise as the model was trained: n of (h w 3) uint8 RGB → (n 3 s s) float32."""
        return torch.stack([self.prepare(Image.fromarray(image)) for image in images]).to(self.device)


def load_open_clip(config: EmbedConfig | CaptionConfig) -> OpenClip:
    """Load a folder (open_clip_config.json beside its weights), or a checkpoint of a named architecture.

    Never downloads. Raises ModelFileError naming the file that is missing or does not fit.
    """
    for path in open_clip_files(config):
        if not path.is_file():
            raise ModelFileError(f"model file {path} is missing: put it there, or choose another --profile")
    name = config.architecture or f"local-dir:{config.weights}"
    pretrained = str(config.weights) if config.architecture else None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, _, prepare = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device, pretrained_text=False
        )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{config.weights} cannot be loaded as an open_clip model ({reason}): restore the file"
        ) from error
    model.eval().requires_grad_(False)
    return OpenClip(model, prepare, _tokenizer(name, config, model), device)


def _tokenizer(name: str, config: EmbedConfig | CaptionConfig, model: Any) -> WordTokenizer:
    length = _context_length(model)
    if (config.weights / "tokenizer.json").is_file():
        fast = PreTrainedTokenizerFast.from_pretrained(config.weights)
        return WordTokenizer(fast, fast.bos_token_id, fast.eos_token_id, fast.pad_token_id, length)
    encoder = open_clip.get_tokenizer(name)
    if not hasattr(encoder, "sot_token_id"):
        raise ModelFileError(f"the tokenizer of {name} has no start token: add a tokenizer.json to its folder")
    return WordTokenizer(encoder, encoder.sot_token_id, encoder.eot_token_id, 0, length)


def _context_length(model: Any) -> int:
    """Tokens a text may have; for CoCa no more than its caption decoder was built for."""
    lengths = [int(getattr(model, "text", model).context_length)]
    if hasattr(model, "text_decoder"):
        lengths.append(int(model.text_decoder.context_length))
    return min(lengths)
