"""Our CoCa decoding against a slow reference, its stopping, the grid, the merger."""

import dataclasses

import numpy as np
import pytest
import torch

from curation.config import CurationConfig
from curation.openclip import OpenClip
from curation.stages.caption import Captioner, decode, grid, merge, square


@pytest.fixture(scope="module")
def captioner(random_config: CurationConfig) -> Captioner:
    return Captioner(random_config.caption)


def pictures(num: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(num)]


@torch.no_grad()
def slow_greedy(clip: OpenClip, picture: torch.Tensor, max_tokens: int) -> list[int]:
    """One picture, whole model each step."""
    ids = [clip.tokenizer.start_id]
    for _ in range(max_tokens):
        logits = clip.model(picture[None], torch.tensor([ids]), output_labels=False)["logits"]
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == clip.tokenizer.end_id:
            break
    return ids


class EndsEarly(torch.nn.Module):
    """A model that says token 5 + row and ends after as many steps as the row's number."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def _encode_image(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.flatten(1), images.flatten(1)

    def forward(self, images, ids, image_latent, image_embs, output_labels):  # type: ignore[no-untyped-def]
        self.calls += 1
        logits = torch.zeros(len(images), ids.shape[1], 12)
        for row in range(len(images)):
            logits[row, -1, 2 if ids.shape[1] > row else 5 + row] = 1.0
        return {"logits": logits}


def test_batched_greedy_equals_one_by_one(captioner: Captioner) -> None:
    clip, images = captioner.clip, pictures(6)
    prepared = clip.pictures(images)
    expected = [clip.tokenizer.decode(slow_greedy(clip, picture, 10)) for picture in prepared]
    assert decode(clip, prepared, 10, 1, torch.Generator()) == expected
    assert captioner.images(images[:1]) == captioner.images(images)[:1]


def test_each_row_stops_at_its_end_token(captioner: Captioner) -> None:
    clip = dataclasses.replace(captioner.clip, model=EndsEarly())
    texts = decode(clip, torch.zeros(3, 3, 4, 4), 16, 1, torch.Generator())
    assert [len(text.split()) for text in texts] == [0, 1, 2]
    assert clip.model.calls == 3


def test_top_k_samples_repeatably(captioner: Captioner) -> None:
    prepared = captioner.clip.pictures(pictures(3))
    first, again = (decode(captioner.clip, prepared, 8, 4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first == again


def test_captions_stay_with_their_clips(captioner: Captioner) -> None:
    middles = pictures(4)
    grids = [[frame] * 4 for frame in middles]
    together = captioner.clips(middles, grids)
    alone = [captioner.clips([m], [g])[0] for m, g in zip(middles, grids, strict=True)]
    assert together == alone
    assert all(captions.caption == captions.caption_video for captions in together)


def test_grid_reads_like_text_and_repeats_the_last() -> None:
    frames = [np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3)]
    assert grid(frames)[:, :, 0].tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 3, 3, 3]] * 2
    wide = np.arange(12, dtype=np.uint8).reshape(2, 6, 1).repeat(3, 2)
    assert square(wide)[:, :, 0].tolist() == [[2, 3], [8, 9]]


@pytest.mark.parametrize(
    ("image", "video", "merged"),
    [
        ("a red star in the forest", "a red star walks left in the forest", "a red star walks left in the forest"),
        ("a red star in the city", "a star spins", "a star spins, a red star in the city"),
        ("a red star in the forest", "a red star", "a red star in the forest"),
        ("", "a star spins", "a star spins"),
        ("a star", "", "a star"),
    ],
)
def test_merge(image: str, video: str, merged: str) -> None:
    assert merge(image, video) == merged
