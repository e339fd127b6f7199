"""What every pipeline here shares: its folder is checked file by file when it is read, and it encodes prompts."""

import os
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from torch import nn

from nuwa.generate.folder_checks import check_component, check_keys, components, one_line
from nuwa.hierarchy import NuwaError

LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    ImportError,
)
"""What diffusers, transformers and torch raise for files that do not make sense."""


class FolderPipeline(DiffusionPipeline):
    """A diffusers pipeline with a text encoder and a tokenizer, whose folder is told apart by the name of its class."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """A pipeline from a folder; the options are those of `DiffusionPipeline.from_pretrained`.

        Raises NuwaError, one line naming the file, when something is missing, cut short or does not fit.
        """
        folder = Path(pretrained_model_name_or_path)
        stored = [name for name in components(folder, cls.__name__) if name not in kwargs]
        for name in stored:
            check_component(folder / name)
        try:
            pipe = super().from_pretrained(folder, **kwargs)
        except NuwaError as error:
            raise NuwaError(f"pipeline folder {folder}: {error}") from error
        except LOADING_ERRORS as error:
            line = f"{type(error).__name__}: {one_line(error)}"
            raise NuwaError(f"pipeline folder {folder} cannot be loaded ({line}); train or copy it again") from error
        for name in stored:
            if isinstance(module := pipe.components[name], nn.Module):
                check_keys(folder / name, module)
        return pipe

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Tokens of each prompt: (n_prompts, n_tokens, d), in the text encoder's precision and on its device."""
        if not prompts:
            raise NuwaError("no prompt to encode; give at least one (an empty string is a prompt)")
        length = min(self.tokenizer.model_max_length, self.text_encoder.context_length)
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return self.text_encoder(tokens["input_ids"].to(self.text_encoder.device))
