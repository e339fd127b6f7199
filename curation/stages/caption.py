"""Captions by CoCa (Yu et al., arXiv 2205.01917): of the middle frame, of four frames as a 2×2 grid, and their merger.

SVD (arXiv 2311.15127, Sec. 3) captions the middle frame with CoCa, the clip with V-BLIP, and lets a language model
merge both. Here: the same CoCa reads the clip as a grid, and a template merges, because both must run anywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from curation.config import CaptionConfig
from curation.model_files import ModelFileError
from curation.openclip import OpenClip, load_open_clip


@dataclass(frozen=True)
class Captions:
    """The three captions of a clip and the chosen one, named as the columns of `clips`."""

    caption_coca: str
    caption_video: str
    caption_llm: str
    caption: str


def square(image: np.ndarray) -> np.ndarray:
    """Centre square of (h w 3), the part of a frame that CLIP's own preparation looks at."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def grid(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Up to four (h w 3) in order of time → (2h 2w 3), read like text: 0 1 over 2 3; missing ones repeat the last."""
    four = list(frames)[:4]
    four += [four[-1]] * (4 - len(four))
    return rearrange(np.stack(four), "(row column) h w c -> (row h) (column w) c", row=2)


def merge(image_caption: str, video_caption: str) -> str:
    """One sentence for both: the video caption, plus the image caption when that says something more."""
    if not image_caption or set(_words(image_caption)) <= set(_words(video_caption)):
        return video_caption
    if not video_caption or set(_words(video_caption)) <= set(_words(image_caption)):
        return image_caption
    return f"{video_caption}, {image_caption}"


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


@torch.inference_mode()
def decode(clip: OpenClip, images: Tensor, max_tokens: int, top_k: int, generator: torch.Generator) -> list[str]:
    """Caption a batch, all rows at once: start token, then one token per step until every row has its end token.

    images: (n 3 s s) float32, prepared. `top_k` 1 takes the likeliest token, more samples among the k likeliest.
    Deviation from CoCa.generate of open_clip: that one refuses current transformers, and leaves rows running.
    """
    tokens, model = clip.tokenizer, clip.model
    image_latent, image_embs = model._encode_image(images)
    ids = torch.full((len(images), 1), tokens.start_id, dtype=torch.int64, device=images.device)
    running = torch.ones(len(images), dtype=torch.bool, device=images.device)
    for _ in range(min(max_tokens, tokens.context_length)):
        out = model(
            images, ids, image_latent=image_latent, image_embs=image_embs, output_labels=False
        )  # logits (n length vocabulary)
        step = _next_token(out["logits"][:, -1], top_k, generator).masked_fill(~running, tokens.pad_id)
        ids = torch.cat([ids, step[:, None]], dim=1)
        running &= step != tokens.end_id
        if not running.any():
            break
    return [tokens.decode(row) for row in ids.tolist()]


def _next_token(logits: Tensor, top_k: int, generator: torch.Generator) -> Tensor:
    """(n vocabulary) → (n,) int64."""
    if top_k == 1:
        return logits.argmax(dim=-1)
    best = logits.float().topk(min(top_k, logits.shape[-1]), dim=-1)
    draw = torch.multinomial(best.values.softmax(dim=-1).cpu(), 1, generator=generator).to(logits.device)
    return best.indices.gather(1, draw)[:, 0]


class Captioner:
    """A CoCa model that captions clips."""

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config
        self.clip = load_open_clip(config)
        if not hasattr(self.clip.model, "text_decoder"):
            raise ModelFileError(f"{config.weights} is not a CoCa model (it has no text decoder): choose another")

    def images(self, images: Sequence[np.ndarray]) -> list[str]:
        """n pictures (h w 3) uint8 RGB → n captions."""
        size = self.config.batch_size
        captions: list[str] = []
        for i in range(0, len(images), size):
            generator = torch.Generator().manual_seed(self.config.seed)
            pictures = self.clip.pictures(images[i : i + size])
            captions += decode(self.clip, pictures, self.config.max_tokens, self.config.top_k, generator)
        return captions

    def clips(self, middles: Sequence[np.ndarray], grids: Sequence[Sequence[np.ndarray]]) -> list[Captions]:
        """Captions of n clips from their middle frame and up to four evenly spaced frames each."""
        cut = square if self.clip.crops else np.asarray
        pictures = [*middles, *(grid([cut(frame) for frame in frames]) for frames in grids)]
        texts = self.images(pictures)
        image_texts, video_texts = texts[: len(middles)], texts[len(middles) :]
        return [self._choose(image, video) for image, video in zip(image_texts, video_texts, strict=True)]

    def _choose(self, image: str, video: str) -> Captions:
        chosen = {"coca": image, "video": video, "llm": merge(image, video)}
        return Captions(image, video, chosen["llm"], chosen["video"])
