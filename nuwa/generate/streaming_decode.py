"""Latents in, frames out, chunk by chunk: the final video is decoded while later windows are still being made.

A temporal autoencoder's frame depends on its neighbours, so chunks of one window overlap and cross-fade where they
meet. Only the frames that the next chunk needs are held.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from einops import rearrange

from nuwa.hierarchy import NuwaError
from nuwa.models.vae_chunks import cross_fade
from nuwa.models.vae_tiles import starts_of

Decode = Callable[[torch.Tensor], torch.Tensor]

DECODE_OVERLAP = 4
"""Frames that two neighbouring chunks share and cross-fade, unless chunks are so short that this is half of them."""


class StreamingDecode:
    """Decodes a video of `num_frames` frames in chunks of `length` frames that share `overlap` frames.

    decode: scaled latents (1 c l h w) to video (1 3 l H W) in [−1, 1]. With more than one of `threads` that many
    chunks are decoded at once, ahead of the frames that are taken, and as many may wait to be taken.
    """

    def __init__(
        self, decode: Decode, num_frames: int, length: int, overlap: int | None = None, threads: int = 1
    ) -> None:
        overlap = min(DECODE_OVERLAP, (length - 1) // 2) if overlap is None else overlap
        if not 0 <= overlap < length:
            raise NuwaError(f"overlap {overlap} does not fit chunks of {length} frames; give 0 to {length - 1}")
        self._decode, self._num_frames, self._length = decode, num_frames, length
        self._starts = starts_of(num_frames, length, overlap)
        self._cut = self._taken = 0  # chunks cut out of the latents, chunks whose frames were taken
        self._latents: torch.Tensor | None = None  # c t h w, from the start of the next chunk on
        self._shared: torch.Tensor | None = None  # 3 k H W, the end of the last chunk taken
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._most_waiting = 2 * threads
        self._chunks: deque[Future[torch.Tensor] | torch.Tensor] = deque()

    def add(self, latents: torch.Tensor) -> Iterator[np.ndarray]:
        """Take the next latents (c t h w) and yield the frames that are decoded by now, uint8 (H W 3), in order."""
        self._latents = latents if self._latents is None else torch.cat([self._latents, latents], dim=1)
        while self._cut < len(self._starts) and self._frames_known >= self._end(self._cut):
            self._cut_chunk()
            yield from self._ready_frames()

    def rest(self) -> Iterator[np.ndarray]:
        """The frames that remain once all latents were added; waits for their decoding."""
        while self._chunks:
            yield from self._take_chunk()
        assert self._taken == len(self._starts), "latents are missing"

    def close(self) -> None:
        """Drop what was not taken."""
        self._chunks.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _frames_known(self) -> int:
        return self._starts[self._cut] + (0 if self._latents is None else self._latents.shape[1])

    def _end(self, chunk: int) -> int:
        return min(self._starts[chunk] + self._length, self._num_frames)

    def _cut_chunk(self) -> None:
        """Hand the next chunk to the decoder and drop the latents that no later chunk needs."""
        assert self._latents is not None
        start = self._starts[self._cut]
        chunk = self._latents[None, :, : self._length]
        self._chunks.append(chunk if self._pool is None else self._pool.submit(self._decode, chunk))
        self._cut += 1
        following = self._starts[self._cut] if self._cut < len(self._starts) else self._num_frames
        self._latents = self._latents[:, following - start :].clone()

    def _ready_frames(self) -> Iterator[np.ndarray]:
        while self._chunks and (self._is_done(self._chunks[0]) or len(self._chunks) > self._most_waiting):
            yield from self._take_chunk()

    @staticmethod
    def _is_done(chunk: Future[torch.Tensor] | torch.Tensor) -> bool:
        return isinstance(chunk, torch.Tensor) or chunk.done()

    def _take_chunk(self) -> Iterator[np.ndarray]:
        chunk = self._chunks.popleft()
        video = (self._decode(chunk) if isinstance(chunk, torch.Tensor) else chunk.result())[0].cpu()  # 3 l H W
        start = self._starts[self._taken]
        self._taken += 1
        following = self._starts[self._taken] if self._taken < len(self._starts) else self._num_frames
        video = video if self._shared is None else cross_fade(self._shared, video)
        self._shared = video[:, following - start :].clone()
        yield from as_images(video[:, : following - start])


def decode_frames(
    decode: Decode, latents: torch.Tensor, length: int, overlap: int | None = None
) -> Iterator[np.ndarray]:
    """Frames, uint8 (H W 3), of scaled latents (c n h w) of a whole video."""
    stream = StreamingDecode(decode, latents.shape[1], length, overlap)
    yield from stream.add(latents)
    yield from stream.rest()


def as_images(video: torch.Tensor) -> Iterator[np.ndarray]:
    """(3 t H W) in [−1, 1] to t images, uint8 (H W 3)."""
    images = rearrange(video, "c t h w -> t h w c").add(1).mul(127.5).round().clamp(0, 255)
    yield from images.to(torch.uint8).numpy()
