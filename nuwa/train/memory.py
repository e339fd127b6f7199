"""What a frozen part of the pipeline has already computed: latents of windows, tokens of prompts."""

from collections.abc import Callable, Sequence

import torch

from nuwa.data.prompt_tokens import PromptFolder
from nuwa.generate.folder_pipeline import FolderPipeline

Key = tuple[int, ...]


class LatentMemory:
    """Latents by key, kept as float16 while `budget_bytes` lasts.

    What is returned has gone through float16 whether it was kept or not, so a resumed training sees the same bits.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.used_bytes = budget_bytes, 0
        self._kept: dict[Key, torch.Tensor] = {}

    def recall(self, key: Key, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Latents under `key`, float32; computed by `make` when not known yet."""
        if key not in self._kept:
            latents = make().detach().half().cpu()
            if self.used_bytes + latents.nbytes > self.budget_bytes:
                return latents.float()
            self._kept[key] = latents
            self.used_bytes += latents.nbytes
        return self._kept[key].float()


class PromptMemory:
    """Tokens of every distinct prompt, encoded once; captions repeat over all frames of a clip.

    stored: prompts that were encoded before by the same text encoder
    """

    def __init__(self, pipe: FolderPipeline, stored: PromptFolder | None = None) -> None:
        self._pipe, self._stored = pipe, stored
        self._known: dict[str, torch.Tensor] = {}

    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Tokens of `prompts`: (len n d), float32."""
        return torch.stack([self._tokens(prompt) for prompt in prompts])

    def _tokens(self, prompt: str) -> torch.Tensor:
        if prompt not in self._known:
            stored = None if self._stored is None else self._stored.read(prompt)
            self._known[prompt] = self._encode(prompt) if stored is None else torch.from_numpy(stored)
        return self._known[prompt]

    def _encode(self, prompt: str) -> torch.Tensor:
        """One at a time and in full precision: the result depends on no other prompt, nor on how networks train."""
        with torch.autocast(self._pipe.text_encoder.device.type, enabled=False):
            return self._pipe.encode_prompts([prompt])[0].cpu()
