"""The streamed decode: frame for frame the decode of the whole video in overlapping chunks, and no more in memory."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nuwa.generate.streaming_decode import StreamingDecode, decode_frames
from nuwa.hierarchy import NuwaError
from nuwa.models.vae_chunks import cross_fade
from nuwa.models.vae_tiles import starts_of
from tests.nuwa import stack
from tests.nuwa.fake_sampler import FakeSampler


def reference(latents: torch.Tensor, length: int, overlap: int) -> np.ndarray:
    """All chunks of (c n h w) decoded first, then faded and put side by side: (n H W 3)."""
    decode, starts = FakeSampler().decode, starts_of(latents.shape[1], length, overlap)
    frames: dict[int, torch.Tensor] = {}
    for start in starts:
        video = decode(latents[None, :, start : start + length])[0]  # 3 l H W
        shared = [n for n in range(video.shape[1]) if start + n in frames]
        for n in range(video.shape[1]):
            weight = (torch.tensor(n) + 1).div(len(shared) + 1)
            old = frames.get(start + n)
            frames[start + n] = video[:, n] if old is None else torch.lerp(old, video[:, n], weight)
    video = torch.stack([frames[n] for n in range(latents.shape[1])]).add(1).mul(127.5).round()
    return video.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def stream(latents: torch.Tensor, pieces: list[int], length: int, overlap: int, threads: int) -> Iterator[np.ndarray]:
    decoder = StreamingDecode(FakeSampler().decode, latents.shape[1], length, overlap, threads)
    for piece in latents.split(pieces, dim=1):
        yield from decoder.add(piece)
    yield from decoder.rest()
    decoder.close()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("frames", "length", "overlap"), [(1, 5, 2), (4, 5, 2), (5, 5, 0), (30, 5, 2), (226, 16, 4)])
def test_any_pieces_give_the_frames_of_the_whole_video(frames: int, length: int, overlap: int, threads: int) -> None:
    latents = torch.randn(2, frames, 2, 2, generator=torch.Generator().manual_seed(frames))
    expected = reference(latents, length, overlap)
    first = min(frames, length)
    steady = [first] + [length - 1] * ((frames - first) // (length - 1))
    for pieces in ([frames], [1] * frames, [*steady, frames - sum(steady)]):
        found = np.stack(list(stream(latents, pieces, length, overlap, threads)))
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        np.stack(list(decode_frames(FakeSampler().decode, latents, length, overlap))), expected
    )


def test_frames_come_as_soon_as_their_chunk_is_whole() -> None:
    latents, fake = torch.randn(2, 30, 2, 2), FakeSampler()
    decoder = StreamingDecode(fake.decode, 30, 5, 2)
    counts = [len(list(decoder.add(latents[:, n : n + 1]))) for n in range(30)]
    assert sum(counts[:4]) == 0
    assert [sum(counts[: n + 1]) for n in range(4, 26, 3)] == [3 * (chunk + 1) for chunk in range(8)]
    assert sum(counts) == 30
    assert list(decoder.rest()) == []


def test_no_frame_is_decoded_more_often_than_chunks_overlap() -> None:
    fake = FakeSampler()
    list(decode_frames(fake.decode, torch.randn(2, 226, 2, 2), 16, 4))
    assert fake.decoded_frames == 16 * len(starts_of(226, 16, 4))
    assert fake.decoded_frames / 226 < 16 / 12 + 0.1


def test_only_what_the_next_chunk_needs_is_held() -> None:
    decoder = StreamingDecode(FakeSampler().decode, 1000, 16, 4)
    held = []
    for _ in range(50):
        list(decoder.add(torch.zeros(2, 15, 2, 2)))
        assert decoder._latents is not None
        held.append(decoder._latents.untyped_storage().nbytes() // (2 * 2 * 2 * 4))
    assert max(held) < 16


def test_chunks_are_decoded_at_once_and_bounded_ahead() -> None:
    together, running, most = threading.Barrier(3, timeout=30), [0], [0]
    lock = threading.Lock()

    def decode(latents: torch.Tensor) -> torch.Tensor:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait()  # passes only when three chunks are being decoded at once
        with lock:
            running[0] -= 1
        return FakeSampler().decode(latents)

    latents = torch.randn(2, 29, 2, 2)  # nine chunks
    decoder = StreamingDecode(decode, 29, 5, 2, threads=3)
    images = [*decoder.add(latents), *decoder.rest()]
    decoder.close()
    assert most[0] == 3
    np.testing.assert_array_equal(np.stack(images), reference(latents, 5, 2))


def test_an_error_of_the_decoder_reaches_the_caller() -> None:
    def decode(latents: torch.Tensor) -> torch.Tensor:
        raise NuwaError("no room")

    for threads in (1, 2):
        decoder = StreamingDecode(decode, 9, 5, 2, threads)
        with pytest.raises(NuwaError, match="no room"):
            _ = [*decoder.add(torch.zeros(2, 9, 2, 2)), *decoder.rest()]
        decoder.close()


def test_chunks_of_a_real_decode_cross_fade_where_they_meet() -> None:
    vae = stack.build().vae
    latents = torch.randn(4, 30, 8, 8, generator=torch.Generator().manual_seed(0))

    def decode(chunk: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return vae.decode(chunk).clamp(-1, 1)

    images = np.stack(list(decode_frames(decode, latents, stack.LENGTH, overlap=2)))
    assert images.shape == (30, 16, 16, 3)
    assert images.dtype == np.uint8
    first, second = (decode(latents[None, :, start : start + stack.LENGTH])[0] for start in (0, 3))  # 3 l H W
    shared = [torch.lerp(first[:, 3 + n], second[:, n], (n + 1) / 3) for n in range(2)]
    expected = torch.stack([*first[:, :3].unbind(1), *shared, second[:, 2]], dim=1).permute(1, 2, 3, 0)
    np.testing.assert_allclose(images[:6] / 127.5 - 1, expected.numpy(), atol=0.6 / 127.5)
    assert (first[:, 3:] - second[:, :2]).abs().max() > 0.02


def test_cross_fade_of_nothing_changes_nothing() -> None:
    video = torch.randn(3, 5, 2, 2)
    assert cross_fade(video[:, :0], video) is video


@pytest.mark.parametrize("overlap", [5, -1])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(NuwaError, match=f"overlap {overlap} does not fit"):
        next(decode_frames(FakeSampler().decode, torch.zeros(4, 9, 8, 8), 5, overlap))
