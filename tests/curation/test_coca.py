"""Our decoder of captions: open_clip's own tokens, each row's end, beam search against all texts there are."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from curation.coca import Decoding, decode, pick, token_ids
from curation.config import CurationConfig
from curation.model_config import CaptionConfig
from curation.openclip import OpenClip, load_open_clip
from tests.curation import record_open_clip_captions as record


@pytest.fixture(scope="module")
def shipped() -> OpenClip:
    return load_open_clip(CaptionConfig())


@pytest.fixture(scope="module")
def random_clip(random_config: CurationConfig) -> OpenClip:
    return load_open_clip(random_config.caption)


def pictures(num: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(num)]


def as_ours(search: dict[str, object]) -> Decoding:
    """The arguments of open_clip's generate in our words."""
    values = {
        "seq_len": 16,
        "min_seq_len": 5,
        "num_beams": 6,
        "num_beam_groups": 3,
        "repetition_penalty": 1.0,
        **search,
    }
    sampled = "beam" if values["generation_type"] == "beam_search" else "top_k"
    return Decoding(
        method="greedy" if values.get("top_k") == 1 else sampled,
        min_tokens=values["min_seq_len"] - 1,
        max_tokens=values["seq_len"] - 1,
        top_k=values.get("top_k", 1),
        num_beams=values["num_beams"] // values["num_beam_groups"],
        repetition_penalty=values["repetition_penalty"],
    )


@pytest.mark.parametrize("name", sorted(record.SEARCHES))
def test_tokens_are_those_of_open_clip(shipped: OpenClip, name: str) -> None:
    """Recorded with open_clip's own generate; `python -m tests.curation.record_open_clip_captions` says how."""
    recorded = json.loads(record.RECORD.read_text())["tokens"][name]
    expected = [row[: row.index(record.END) + 1] if record.END in row else row for row in recorded]
    draws = [record.draws(index) for index in range(record.NUM_PICTURES)]
    assert token_ids(shipped, record.prepared(), as_ours(record.SEARCHES[name]), draws) == expected
    assert len({tuple(row) for row in expected}) > 10, "pictures too much alike to tell anything"


class EndsEarly(torch.nn.Module):
    """A model that says token 5 + row and ends after as many steps as the row's number."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def _encode_image(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.flatten(1), images.flatten(1)

    def forward(self, images, ids, image_latent, image_embs, output_labels):  # type: ignore[no-untyped-def]
        self.calls += 1
        logits = torch.zeros(len(ids), ids.shape[1], 12)
        for row in range(len(ids)):
            logits[row, -1, 2 if ids.shape[1] > row else 5 + row] = 1.0
        return {"logits": logits}


def test_each_row_stops_at_its_end_token(random_clip: OpenClip) -> None:
    clip = dataclasses.replace(random_clip, model=EndsEarly())
    texts = decode(clip, torch.zeros(3, 3, 4, 4), Decoding(min_tokens=0))
    assert [len(text.split()) for text in texts] == [0, 1, 2]
    assert clip.model.calls == 3


def test_least_length_and_last_place(random_clip: OpenClip) -> None:
    clip = dataclasses.replace(random_clip, model=EndsEarly())
    rows = token_ids(clip, torch.zeros(3, 3, 4, 4), Decoding(min_tokens=2, max_tokens=5))
    assert [len(row) for row in rows] == [4, 4, 4]
    assert token_ids(clip, torch.zeros(1, 3, 4, 4), Decoding(min_tokens=3, max_tokens=4))[0][-1] == 2


def test_batched_greedy_equals_one_by_one(random_clip: OpenClip) -> None:
    prepared, how = random_clip.pictures(pictures(6)), Decoding(max_tokens=10)
    assert decode(random_clip, prepared, how) == [decode(random_clip, one[None], how)[0] for one in prepared]


class Table(torch.nn.Module):
    """A model whose next scores are a fixed table of (picture, length, last token)."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def _encode_image(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images

    def forward(self, images, ids, image_latent, image_embs, output_labels):  # type: ignore[no-untyped-def]
        picture = image_embs[:, 0].long()
        return {"logits": self.table[picture, ids.shape[1], ids[:, -1]][:, None].expand(-1, ids.shape[1], -1)}


def test_a_wide_beam_finds_the_best_of_all_texts(random_clip: OpenClip) -> None:
    """Scores are sums of logits, the end's included, over the number of tokens."""
    tokens, length = 6, 4
    table = torch.randn(2, length + 1, tokens, tokens, generator=torch.Generator().manual_seed(3))
    clip = dataclasses.replace(random_clip, model=Table(table))
    how = Decoding(method="beam", min_tokens=1, max_tokens=length - 1, num_beams=tokens**2)
    rows = token_ids(clip, torch.tensor([[0.0], [1.0]]), how)
    for picture, row in enumerate(rows):
        assert row == max(all_texts(tokens, length), key=lambda text: mean_score(table[picture], text))


def all_texts(tokens: int, length: int) -> list[list[int]]:
    """Start 1, then tokens without the end 2, then the end where there is room for it."""
    open_tokens = [token for token in range(tokens) if token != 2]
    middles = [list(middle) for n in range(1, length) for middle in itertools.product(open_tokens, repeat=n)]
    return [[1, *middle, *([2] if len(middle) + 1 < length else [])] for middle in middles]


def mean_score(table: torch.Tensor, text: list[int]) -> float:
    total = sum(float(table[at, text[at - 1], text[at]]) for at in range(1, len(text)))
    return total / len(text)


def test_pick_follows_the_cumulated_probability() -> None:
    probabilities = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).repeat(6, 1)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.999])
    assert pick(probabilities, uniform).tolist() == [0, 0, 2, 2, 3, 3]
    assert pick(torch.tensor([[0.3, 0.6, 0.0]]), torch.ones(1, dtype=torch.float64)).tolist() == [1]
