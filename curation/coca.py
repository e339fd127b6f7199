"""Decoding of captions by a CoCa (Yu et al., arXiv 2205.01917), a batch of pictures at once: greedy, top-k, beam.

The tokens are those of `CoCa.generate` of open_clip on the same weights (recorded in a test), which itself refuses
current transformers: its least length, its repetition penalty, its end token forced at the last place, its beam search
over raw logits. Two deviations: a row's draws depend on the row alone, and a batch stops when its last row has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from curation.openclip import OpenClip


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen; the fields mean what they mean in `CaptionConfig`."""

    method: Literal["greedy", "top_k", "beam"] = "greedy"
    min_tokens: int = 4
    max_tokens: int = 16
    top_k: int = 5
    num_beams: int = 2
    repetition_penalty: float = 1.0


@torch.inference_mode()
def decode(clip: OpenClip, pictures: Tensor, how: Decoding, draws: Sequence[np.random.Generator] = ()) -> list[str]:
    """Caption n pictures.

    pictures: (n 3 s s), prepared. draws: for top_k one generator per picture, used by that picture only.
    """
    return [clip.tokenizer.decode(row) for row in token_ids(clip, pictures, how, draws)]


@torch.inference_mode()
def token_ids(
    clip: OpenClip, pictures: Tensor, how: Decoding, draws: Sequence[np.random.Generator] = ()
) -> list[list[int]]:
    """Tokens of each caption, the start token first, then up to and with the end token where there is one."""
    writer = _Writer(clip, pictures, how)
    if how.method == "beam":
        return _beam(writer, how.num_beams)
    return _one_path(writer, 1 if how.method == "greedy" else how.top_k, draws)


class _Writer:
    """Pictures read once, and the scores of the next token of every text begun on them."""

    def __init__(self, clip: OpenClip, pictures: Tensor, how: Decoding) -> None:
        self.clip, self.how, self.num = clip, how, len(pictures)
        self.image_latent, self.image_embs = clip.model._encode_image(pictures)

    @property
    def max_length(self) -> int:
        """Tokens of a text, start token included; the last one needs no place in the model's context."""
        return min(self.how.max_tokens, self.clip.tokenizer.context_length) + 1

    def scores(self, ids: Tensor) -> Tensor:
        """ids (n·k length) of k texts per picture → scores (n·k vocabulary) float32 of their next token."""
        texts = len(ids) // self.num
        latent, embs = (repeat(x, "n ... -> (n k) ...", k=texts) for x in (self.image_latent, self.image_embs))
        logits: Tensor = self.clip.model(None, ids, image_latent=latent, image_embs=embs, output_labels=False)["logits"]
        return self._ruled(logits[:, -1].float(), ids)

    def _ruled(self, scores: Tensor, ids: Tensor) -> Tensor:
        if ids.shape[1] <= self.how.min_tokens:
            scores[:, self.clip.tokenizer.end_id] = -torch.inf
        penalty = self.how.repetition_penalty
        if penalty == 1.0:
            return scores
        said = scores.gather(1, ids)
        return scores.scatter(1, ids, torch.where(said < 0, said * penalty, said / penalty))


def _one_path(writer: _Writer, top_k: int, draws: Sequence[np.random.Generator]) -> list[list[int]]:
    """Greedy (`top_k` 1) and top-k: one text per picture, each running until its end token."""
    tokens, device = writer.clip.tokenizer, writer.image_embs.device
    ids = torch.full((writer.num, 1), tokens.start_id, dtype=torch.int64, device=device)
    running = torch.ones(writer.num, dtype=torch.bool, device=device)
    while ids.shape[1] < writer.max_length and running.any():
        if ids.shape[1] + 1 == writer.max_length:
            step = torch.full_like(ids[:, 0], tokens.end_id)
        elif top_k == 1:
            step = writer.scores(ids).argmax(dim=-1)
        else:
            step = _sample(writer.scores(ids), top_k, running, draws)
        ids = torch.cat([ids, step.masked_fill(~running, tokens.pad_id)[:, None]], dim=1)
        running &= step != tokens.end_id
    return [_to_end(row, tokens.end_id) for row in ids.tolist()]


def _to_end(row: list[int], end_id: int) -> list[int]:
    return row[: row.index(end_id) + 1] if end_id in row else row


def _sample(scores: Tensor, top_k: int, running: Tensor, draws: Sequence[np.random.Generator]) -> Tensor:
    """scores (n vocabulary) → (n,) int64: one draw per running row among its k likeliest tokens."""
    least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[:, -1:]
    kept = scores.masked_fill(scores < least, -torch.inf)
    numbers = [draw.random() if runs else 0.0 for draw, runs in zip(draws, running.tolist(), strict=True)]
    return pick(kept.softmax(dim=-1), torch.tensor(numbers, dtype=torch.float64, device=scores.device))


def pick(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulated probability passes a number: (n v), (n,) in [0, 1) → (n,) int64.

    Unlike torch.multinomial it gives the same token on every device and in every version of torch.
    """
    total = probabilities.double().cumsum(dim=-1)
    whole = total[:, -1:]
    below = torch.minimum(
        uniform.double()[:, None] * whole, whole.nextafter(torch.zeros_like(whole))
    )  # roundings stay inside
    return (total <= below).sum(dim=-1)


# --- beam search ------------------------------------------------------------------------------------------------------


@dataclass
class _Search:
    """What beam search knows of one picture: ended texts with their scores, at most `width` of them."""

    width: int
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def add(self, text: list[int], total: float, length: int) -> None:
        """Keep `text` when its score per token is among the best; of equal ones the earlier."""
        score = total / length
        if len(self.ended) == self.width:
            worst = min(range(self.width), key=lambda i: (self.ended[i][0], i))
            if score <= self.ended[worst][0]:
                return
            del self.ended[worst]
        self.ended.append((score, text))

    def close(self, best_total: float, length: int) -> None:
        """Done when no open text, at its present score per token, would be kept."""
        full = len(self.ended) == self.width
        self.done = self.done or (full and min(score for score, _ in self.ended) >= best_total / length)

    def best(self) -> list[int]:
        """The best ended text; of equal ones the last."""
        return max(enumerate(self.ended), key=lambda item: (item[1][0], item[0]))[1][1]


def _beam(writer: _Writer, width: int) -> list[list[int]]:
    """Beam search as open_clip runs it: sums of logits (no log-softmax), divided by the length when compared."""
    tokens = writer.clip.tokenizer
    ids = torch.full((writer.num * width, 1), tokens.start_id, dtype=torch.int64, device=writer.image_embs.device)
    totals = torch.full((writer.num, width), -1e9)
    totals[:, 0] = 0.0
    searches = [_Search(width) for _ in range(writer.num)]
    while ids.shape[1] < writer.max_length and not all(search.done for search in searches):
        ids, totals = _beam_step(writer, searches, ids, totals)
    for search, beams, scores in zip(searches, ids.view(writer.num, width, -1).tolist(), totals.tolist(), strict=True):
        for beam, total in zip(beams, scores, strict=True):
            if not search.done:
                search.add(beam, total, len(beam))
    longest = writer.max_length
    return [text + [tokens.end_id] * (len(text) < longest) for text in (search.best() for search in searches)]


def _beam_step(writer: _Writer, searches: list[_Search], ids: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """ids (n·width length), totals (n width) → the same, one token longer."""
    width = totals.shape[1]
    scores = writer.scores(ids) + totals.to(ids.device).view(-1, 1)
    vocabulary = scores.shape[-1]
    best = scores.view(writer.num, width * vocabulary).topk(2 * width, dim=-1)
    texts = ids.view(writer.num, width, -1).tolist()
    rows, sums = [], []
    for search, beams, values, places in zip(searches, texts, best.values.tolist(), best.indices.tolist(), strict=True):
        candidates = [(value, *divmod(place, vocabulary)) for value, place in zip(values, places, strict=True)]
        longer = _extend(search, beams, candidates, writer.clip.tokenizer.end_id, writer.clip.tokenizer.pad_id)
        rows += [text for text, _ in longer]
        sums.append([total for _, total in longer])
    return torch.tensor(rows, device=ids.device), torch.tensor(sums)


def _extend(
    search: _Search, beams: list[list[int]], candidates: list[tuple[float, int, int]], end_id: int, pad_id: int
) -> list[tuple[list[int], float]]:
    """The next beams of one picture from (total, beam, token), best first; texts that end are kept in `search`."""
    if search.done:
        return [([*beam, pad_id], 0.0) for beam in beams]
    longer: list[tuple[list[int], float]] = []
    for rank, (total, beam, token) in enumerate(candidates):
        if token != end_id:
            longer.append((beams[beam] + [token], total))
        elif rank < len(beams):
            search.add(beams[beam], total, len(beams[beam]) + 1)
        if len(longer) == len(beams):
            break
    search.close(candidates[0][0], len(beams[0]) + 1)
    return longer
