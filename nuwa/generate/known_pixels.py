"""Known pixels of a finished clip: how far they are from what was given, and put back where that is asked for."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from einops import rearrange

from nuwa.generate.masks import Known
from nuwa.generate.streaming_decode import as_images


class KnownPixels:
    """Passes on the frames of a clip and measures their known pixels.

    A network of pixels keeps them exactly; one of latents within the error of its autoencoder, larger where a latent
    is only partly known and therefore made. `put_back` writes them over what was decoded; then they are exact again,
    and the error says how large the step at their border is.
    """

    def __init__(self, known: Known, put_back: bool = False) -> None:
        self._known, self._put_back = known, put_back
        self._count, self._sum, self._most = 0, 0, 0

    def passed(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames, uint8 (H W 3), one by one."""
        given = rearrange(self._known.mask[0] > 0, "t h w -> t h w 1").numpy()
        wanted = as_images(self._known.video)
        for frame, there, pixels in zip(frames, given, wanted, strict=True):
            error = np.abs(frame.astype(np.int16) - pixels)[there[..., 0]]
            self._count += len(error)
            self._sum += int(error.sum())
            self._most = max(self._most, int(error.max(initial=0)))
            yield np.where(there, pixels, frame) if self._put_back else frame

    def describe(self) -> dict[str, object]:
        """What the record says of all frames that were passed: errors as decoded, in grey levels of 255."""
        mean = self._sum / (3 * self._count) if self._count else 0.0
        return {
            "share": float(torch.count_nonzero(self._known.mask) / self._known.mask.numel()),
            "mean_error": round(mean, 4),
            "most_error": self._most,
            "put_back": self._put_back,
        }
