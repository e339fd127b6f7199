"""The CLIP-family models that ship meet their bars on held-out scenes, read by the curation stages themselves."""

from pathlib import Path

import pytest

from demo import coca, evaluate_coca

WEIGHTS = Path(__file__).parents[2] / "demo" / "weights"


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return evaluate_coca.measure(evaluate_coca.EvaluateCoca(weights=WEIGHTS, scenes=160, seed=77))


@pytest.mark.parametrize(
    ("figure", "bar"),
    [
        ("colour", 0.95),
        ("place", 0.95),
        ("shape", 0.80),
        ("action", 0.75),
        ("aesthetic AUC clean/degraded", 0.95),
        ("text→frame top-1 of 64", 0.80),
    ],
)
def test_bars_on_held_out_scenes(figures: dict[str, float], figure: str, bar: float) -> None:
    assert figures[figure] >= bar


def test_clip_family_weights_are_small() -> None:
    files = [*(WEIGHTS / "coca").iterdir(), WEIGHTS / "aesthetic.safetensors"]
    assert sum(file.stat().st_size for file in files) <= 12 * 2**20


def test_all_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 30 * 2**20


def test_the_tokenizer_knows_every_word_and_its_special_ids() -> None:
    tokenizer = coca.build_tokenizer()
    ids = tokenizer("a blurry magenta heart walks left in the forest").input_ids
    assert tokenizer.unk_token_id not in ids
    assert (ids[0], ids[-1]) == (coca.SPECIAL_IDS["<bos>"], coca.SPECIAL_IDS["<eos>"])
    assert tokenizer.convert_tokens_to_ids(list(coca.SPECIAL_IDS)) == list(coca.SPECIAL_IDS.values())
    assert max(tokenizer.vocab.values()) < coca.model_config()["text_cfg"]["vocab_size"]  # type: ignore[index]
