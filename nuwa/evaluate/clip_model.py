"""An open_clip model folder as a judge: embeddings of frames and prompts, CLIPSIM, and toy features for images."""

import functools
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import open_clip
import torch
from einops import rearrange
from PIL import Image
from safetensors import SafetensorError
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from nuwa.hierarchy import NuwaError
from nuwa.models.text import CONFIG_FILE

CACHED_PROMPTS = 4096


class OpenClipModel:
    """CLIP or CoCa in evaluation mode, with the picture preparation and tokenizer of its folder."""

    def __init__(self, model: Any, prepare: Any, tokenize: Any, name: str) -> None:
        self.model, self.prepare, self.tokenize = model.eval().requires_grad_(False), prepare, tokenize
        parameters = sum(parameter.numel() for parameter in model.parameters())
        self.name = f"open_clip model {name} ({parameters / 1e6:.1f} M parameters)"
        self._embed_cached = functools.lru_cache(CACHED_PROMPTS)(self._embed_one)

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | None = None) -> Self:
        """Read a folder with open_clip_config.json and its weights; nothing is downloaded, no code is unpickled."""
        if not (folder / CONFIG_FILE).is_file():
            raise NuwaError(f"no {CONFIG_FILE} in {folder}; give --clip the folder of an open_clip model")
        name = f"local-dir:{folder}"
        try:
            model, _, prepare = open_clip.create_model_and_transforms(
                name, device=device or "cpu", pretrained_text=False, weights_only=True
            )
            tokenize = _tokenizer(folder, model)
        except (RuntimeError, ValueError, OSError, KeyError, AttributeError, UnpicklingError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise NuwaError(f"{folder} cannot be loaded as an open_clip model ({reason}); copy it anew") from error
        return cls(model, prepare, tokenize, folder.name)

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return int(self.embed_prompts([""]).shape[1])

    @torch.inference_mode()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n d) of images (n 3 h w) in [−1, 1], prepared as the model was trained."""
        pictures = rearrange(((images + 1.0) * 127.5).round().clamp(0, 255).byte(), "n c h w -> n h w c").cpu().numpy()
        prepared = torch.stack([self.prepare(Image.fromarray(picture)) for picture in pictures])
        embedded = self.model.encode_image(prepared.to(self._device))
        return functional.normalize(embedded.float(), dim=-1).cpu()

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n d) of texts."""
        return torch.stack([self._embed_cached(prompt) for prompt in prompts])

    @torch.inference_mode()
    def _embed_one(self, prompt: str) -> torch.Tensor:
        embedded = self.model.encode_text(self.tokenize([prompt]).to(self._device))
        return functional.normalize(embedded.float(), dim=-1)[0].cpu()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


# GODIVA (Wu et al. 2021, arXiv 2104.14806): CLIPSIM, the mean CLIP similarity of text and frames.
def clipsim(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """100 × cosine of each frame and its prompt, (n); the figure of a video is their mean.

    images, texts: unit embeddings (n d)
    """
    return 100.0 * (images * texts).sum(dim=-1)


class ToyImageFeatures:
    """Embeddings of an open_clip model in the place of Inception's features.

    Unit embeddings times √d, so that a coordinate has mean square 1 and the kernel of KID sees their cosine.
    """

    toy = True

    def __init__(self, model: OpenClipModel) -> None:
        self.model, self.width = model, model.width
        self.name = f"toy features: image embeddings of the {model.name}"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n 3 h w) in [−1, 1] → (n d)."""
        return self.model.embed_images(images) * self.width**0.5


def _tokenizer(folder: Path, model: Any) -> Any:
    """Texts → ids (n context): the folder's tokenizer.json where there is one, else open_clip's own for it."""
    length = int(getattr(model, "text", model).context_length)
    if not (folder / "tokenizer.json").is_file():
        return functools.partial(open_clip.get_tokenizer(f"local-dir:{folder}"), context_length=length)
    fast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)

    def tokenize(texts: list[str]) -> torch.Tensor:
        ids = fast(texts, padding="max_length", truncation=True, max_length=length).input_ids
        return torch.tensor(ids, dtype=torch.int64)

    return tokenize
