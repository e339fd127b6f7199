"""Tokens of prompts, encoded once: in a folder of latents, below the hash of the text encoder that made them."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nuwa.data.whole_files import DamagedFileError, open_file, read_about, write_tensors

Tokens = npt.NDArray[np.float32]


class PromptFolder:
    """Prompts in `folder` that the text encoder of hash `encoder` encoded.

    Raises DamagedFileError for a file that is cut short, unless `damaged` is given, which then takes their paths.
    """

    def __init__(self, folder: Path, encoder: str, damaged: list[Path] | None = None) -> None:
        self.path, self.encoder = folder / f"prompts-{encoder[:16]}", encoder
        self.files = sorted(self.path.glob("tokens-*.safetensors"))
        self._places: dict[str, tuple[Path, int]] = {}
        self._open: dict[Path, Any] = {}
        for path in self.files:
            try:
                self._places |= {prompt: (path, row) for row, prompt in enumerate(_prompts_in(path))}
            except DamagedFileError:
                if damaged is None:
                    raise
                damaged.append(path)

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Those of `prompts` that are not there, each once, in alphabetical order."""
        return sorted(set(prompts) - self._places.keys())

    def read(self, prompt: str) -> Tokens | None:
        """Tokens of one prompt (n d); None if they are not there."""
        if prompt not in self._places:
            return None
        path, row = self._places[prompt]
        if path not in self._open:
            self._open[path] = open_file(path).get_slice("tokens")
        tokens: Tokens = self._open[path][row]
        return tokens

    def write(self, prompts: Sequence[str], tokens: Tokens) -> Path:
        """Keep the tokens (p n d) of `prompts`; readers find them when they open the folder anew."""
        name = hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16]
        path = self.path / f"tokens-{name}.safetensors"
        write_tensors(path, {"tokens": tokens}, {"encoder": self.encoder, "prompts": list(prompts)})
        return path


def _prompts_in(path: Path) -> list[str]:
    prompts = read_about(path).get("prompts")
    if not isinstance(prompts, list):
        raise DamagedFileError(f"{path} holds no tokens of prompts; remove it")
    return prompts
