"""CLIP embeddings of frames and captions, and how well a caption fits its clip (SVD, arXiv 2311.15127, Sec. 3).

The model runs in float32 on the CPU and in `gpu_dtype` on a GPU; what leaves it is float32.
"""

from collections.abc import Sequence

import numpy as np
import torch

from curation.model_config import EmbedConfig
from curation.model_files import embedding_dim
from curation.openclip import load_open_clip


def unit(vectors: np.ndarray) -> np.ndarray:
    """L2-normalise along the last axis; a zero vector stays zero. (… d) → (… d) float32."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def clip_embedding(frame_embeddings: np.ndarray) -> np.ndarray:
    """One unit vector for a clip: normalised mean of its frames' unit vectors. (n d) → (d,) float32."""
    return unit(frame_embeddings.mean(axis=0))


def similarity(embedding: np.ndarray, text_embedding: np.ndarray) -> float:
    """Cosine of two unit vectors (d,), −1..1."""
    return float(np.clip(embedding @ text_embedding, -1.0, 1.0))


class FrameEmbedder:
    """An open_clip model as a source of unit vectors. One thread on the CPU: the actors share the machine."""

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        self.clip = load_open_clip(config)

    @torch.inference_mode()
    def images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """n frames (h w 3) uint8 RGB, sizes may differ → (n d) float32, unit length."""
        size = self.config.batch_size
        batches = [frames[i : i + size] for i in range(0, len(frames), size)]
        embeddings = [self._encode(batch) for batch in batches]
        return unit(np.concatenate(embeddings)) if embeddings else self._none()

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """n captions → (n d) float32, unit length."""
        size = self.config.batch_size
        batches = [self.clip.tokenizer.encode(captions[i : i + size]) for i in range(0, len(captions), size)]
        embeddings = [self.clip.model.encode_text(ids.to(self.clip.device), normalize=True) for ids in batches]
        return unit(torch.cat(embeddings).float().cpu().numpy()) if embeddings else self._none()

    def _none(self) -> np.ndarray:
        return np.zeros((0, embedding_dim(self.config)), np.float32)

    def _encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        embeddings: torch.Tensor = self.clip.model.encode_image(self.clip.pictures(batch), normalize=True)
        return embeddings.float().cpu().numpy()
