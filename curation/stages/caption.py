"""Image captions: CoCa (Yu et al., arXiv 2205.01917) on the middle frame, as in SVD (arXiv 2311.15127, Sec. 3)."""

import hashlib
from collections.abc import Sequence

import numpy as np

from curation.coca import Decoding, decode
from curation.model_config import CaptionConfig
from curation.model_files import ModelFileError
from curation.openclip import load_open_clip


def draws_of(seed: int, key: str) -> np.random.Generator:
    """The random numbers of one clip: they follow from the seed and the clip's id, not from its batch."""
    return np.random.default_rng((seed, int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])))


class Captioner:
    """A CoCa model that captions pictures. On the CPU in float32, on a GPU in `config.gpu_dtype`.

    Raises:
        ModelFileError: files are missing or damaged, or hold a model without a caption decoder.
    """

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config
        self.clip = load_open_clip(config)
        if not hasattr(self.clip.model, "text_decoder"):
            raise ModelFileError(f"{config.weights} is not a CoCa model (it has no text decoder): choose another")

    def captions(self, images: Sequence[np.ndarray], keys: Sequence[str]) -> list[str]:
        """n pictures (h w 3) uint8 RGB with the ids of their clips → n captions, in their order."""
        assert len(images) == len(keys), f"{len(images)} pictures with {len(keys)} ids"
        size = self.config.batch_size
        starts = range(0, len(images), size)
        return [caption for i in starts for caption in self._batch(images[i : i + size], keys[i : i + size])]

    def _batch(self, images: Sequence[np.ndarray], keys: Sequence[str]) -> list[str]:
        draws = [draws_of(self.config.seed, key) for key in keys]
        return decode(self.clip, self.clip.pictures(images), self._how(), draws)

    def _how(self) -> Decoding:
        return Decoding(
            method=self.config.decoding,
            min_tokens=self.config.min_tokens,
            max_tokens=self.config.max_tokens,
            top_k=self.config.top_k,
            num_beams=self.config.num_beams,
            repetition_penalty=self.config.repetition_penalty,
        )
