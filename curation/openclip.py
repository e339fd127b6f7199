"""Loading of open_clip models from local files, with the tokenizer and picture preparation that belong to them."""

import functools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from curation.model_files import ModelFileError, OpenClipConfig, open_clip_files

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PRECISIONS = {torch.float32: "fp32", torch.float16: "pure_fp16", torch.bfloat16: "pure_bf16"}
# What reading a checkpoint of another model, a damaged one or one with code in it ends in.
LOADING_ERRORS = (RuntimeError, ValueError, OSError, KeyError, AttributeError, pickle.UnpicklingError, SafetensorError)


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
    dtype: torch.dtype

    @property
    def crops(self) -> bool:
        """Whether preparation cuts a picture to its centre square; otherwise it squashes it."""
        return bool(self.model.visual.preprocess_cfg["resize_mode"] == "shortest")

    def pictures(self, images: Sequence[np.ndarray]) -> Tensor:
        """Resize, crop and normalise as the model was trained: n of (h w 3) uint8 RGB → (n 3 s s) of the dtype."""
        prepared = torch.stack([self.prepare(Image.fromarray(image)) for image in images])
        return prepared.to(self.device, self.dtype)


def placement(gpu_dtype: Literal["float32", "float16", "bfloat16"]) -> tuple[torch.device, torch.dtype]:
    """Where a model runs and in what precision: the GPU in `gpu_dtype`, or the CPU in float32."""
    if torch.cuda.is_available():
        return torch.device("cuda"), DTYPES[gpu_dtype]
    return torch.device("cpu"), torch.float32


def load_open_clip(config: OpenClipConfig) -> OpenClip:
    """Load a folder (open_clip_config.json beside its weights), or a checkpoint of a named architecture, given by path
    or by the tag under which open_clip's cache has it.

    Never downloads; pickled checkpoints are read with weights_only. Stages of one process that name the same files
    share one model. Raises ModelFileError naming the file that is missing or does not fit.
    """
    files = open_clip_files(config)
    for path in files:
        if not path.is_file():
            raise ModelFileError(f"model file {path} is missing: put it there, or choose another --profile")
    state = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return _load(config.weights, config.architecture, files[-1], *placement(config.gpu_dtype), state)


@functools.lru_cache(maxsize=1)
def _load(
    weights: Path,
    architecture: str | None,
    checkpoint: Path,
    device: torch.device,
    dtype: torch.dtype,
    state: tuple[tuple[int, int], ...],  # of the files: part of the key, so that a changed file is read again
) -> OpenClip:
    name = architecture or f"local-dir:{weights}"
    try:
        model, _, prepare = open_clip.create_model_and_transforms(
            name,
            pretrained=str(checkpoint) if architecture else None,
            precision=PRECISIONS[dtype],
            device=device,
            pretrained_text=False,
            weights_only=True,
        )
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{checkpoint} cannot be loaded as the open_clip model {name} ({reason}): restore the file"
        ) from error
    model.eval().requires_grad_(False)
    return OpenClip(model, prepare, _tokenizer(name, weights, model), device, dtype)


def _tokenizer(name: str, weights: Path, model: Any) -> WordTokenizer:
    length = _context_length(model)
    if (weights / "tokenizer.json").is_file():
        fast = PreTrainedTokenizerFast.from_pretrained(weights, local_files_only=True)
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
