"""CLIP embeddings of frames and captions, and how well a caption fits its clip (SVD, arXiv 2311.15127, Sec. 3)."""

from collections.abc import Sequence

import numpy as np
import torch

from curation.config import EmbedConfig
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
        return unit(np.concatenate([self._encode(batch) for batch in batches]))

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """n captions → (n d) float32, unit length."""
        ids = self.clip.tokenizer.encode(captions).to(self.clip.device)
        return unit(self.clip.model.encode_text(ids, normalize=True).float().cpu().numpy())

    def _encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        embeddings: torch.Tensor = self.clip.model.encode_image(self.clip.pictures(batch), normalize=True)
        return embeddings.float().cpu().numpy()
