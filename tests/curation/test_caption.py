"""Captions stay with their clips: shuffled, split, interrupted and tried again; models that are not CoCa."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.model_config import CaptionConfig
from curation.model_files import ModelFileError
from curation.stages.caption import Captioner, draws_of

NUM = 9
DECODING = ["greedy", "top_k", "beam"]


@pytest.fixture(scope="module")
def config(random_config: CurationConfig) -> CaptionConfig:
    return dataclasses.replace(random_config.caption, top_k=8, batch_size=4)


def clips() -> dict[str, np.ndarray]:
    """Pictures by the id of their clip."""
    rng = np.random.default_rng(5)
    return {f"clip-{i}": rng.integers(0, 255, (40 + i, 64, 3), dtype=np.uint8) for i in range(NUM)}


def captions(captioner: Captioner, keys: list[str]) -> dict[str, str]:
    images = clips()
    return dict(zip(keys, captioner.captions([images[key] for key in keys], keys), strict=True))


@pytest.mark.parametrize("decoding", DECODING)
def test_shuffling_and_splitting_moves_and_changes_nothing(config: CaptionConfig, decoding: str) -> None:
    keys = sorted(clips())
    together = captions(Captioner(dataclasses.replace(config, decoding=decoding, batch_size=NUM)), keys)
    shuffled = [keys[i] for i in np.random.default_rng(1).permutation(NUM)]
    for size in (1, 2, 4):
        assert (
            captions(Captioner(dataclasses.replace(config, decoding=decoding, batch_size=size)), shuffled) == together
        )
    assert len(set(together.values())) > NUM // 2, "captions too much alike to tell anything"


class DiesOnce:
    """The model, but its third step fails once, as a worker out of memory does."""

    def __init__(self, model: object) -> None:
        self.model, self.calls = model, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("out of memory")
        return self.model(*arguments, **named)  # type: ignore[operator]


@pytest.mark.parametrize("decoding", DECODING)
def test_a_batch_that_failed_midway_is_captioned_alike_when_tried_again(config: CaptionConfig, decoding: str) -> None:
    keys, captioner = sorted(clips()), Captioner(dataclasses.replace(config, decoding=decoding))
    undisturbed = captions(captioner, keys)
    captioner.clip = dataclasses.replace(captioner.clip, model=DiesOnce(captioner.clip.model))
    with pytest.raises(RuntimeError, match="out of memory"):
        captions(captioner, keys)
    assert captions(captioner, keys[::-1]) == undisturbed


def test_draws_follow_seed_and_clip(config: CaptionConfig) -> None:
    assert draws_of(3, "a").random() == draws_of(3, "a").random()
    assert len({draws_of(seed, key).random() for seed in (0, 1) for key in ("a", "b")}) == 4
    sampling = dataclasses.replace(config, decoding="top_k")
    other = dataclasses.replace(sampling, seed=1)
    assert captions(Captioner(sampling), sorted(clips())) != captions(Captioner(other), sorted(clips()))


def test_no_pictures_no_captions(config: CaptionConfig) -> None:
    assert Captioner(config).captions([], []) == []


def test_damaged_and_other_models_are_one_line(config: CaptionConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"open_clip_config\.json is missing"):
        Captioner(CaptionConfig(weights=tmp_path))
    description = json.loads((config.weights / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelFileError, match="cannot be loaded as the open_clip model"):
        Captioner(CaptionConfig(weights=tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": 3}, "max_tokens = 3 must be above min_tokens 4"),
        ({"seed": -1}, "seed = -1 must be at least 0"),
        ({"num_beams": 0}, "num_beams = 0 must be at least 1"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty = 0\.0 must be positive"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, float], message: str) -> None:
    with pytest.raises(CurationError, match=message):
        CaptionConfig(**values)  # type: ignore[arg-type]
