"""Embeddings by an open_clip model with random weights: unit length, independent of the batch, open_clip's own."""

import dataclasses

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from curation import openclip
from curation.config import CurationConfig
from curation.model_files import embedding_dim
from curation.stages.embed import FrameEmbedder, clip_embedding, similarity, unit


@pytest.fixture(scope="module")
def embedder(random_config: CurationConfig) -> FrameEmbedder:
    return FrameEmbedder(random_config.embed)


def pictures(num: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, (48 + 7 * i, 64, 3), dtype=np.uint8) for i in range(num)]


def test_images_are_unit_vectors_whatever_the_batch(embedder: FrameEmbedder) -> None:
    frames = pictures(5)
    together = embedder.images(frames)
    alone = np.concatenate([embedder.images([frame]) for frame in frames])
    assert together.shape == (5, embedding_dim(embedder.config))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_same_as_open_clip_called_directly(embedder: FrameEmbedder) -> None:
    name = f"local-dir:{embedder.config.weights}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    model.eval()
    frame, caption = pictures(1)[0], "a red star in the forest"
    with torch.no_grad():
        image = model.encode_image(prepare(Image.fromarray(frame))[None], normalize=True).numpy()
        text = model.encode_text(open_clip.get_tokenizer(name)([caption]), normalize=True).numpy()
    np.testing.assert_allclose(embedder.images([frame]), image, atol=1e-5)
    np.testing.assert_allclose(embedder.texts([caption]), text, atol=1e-5)


def test_clip_embedding_and_similarity() -> None:
    frames = unit(np.array([[1.0, 0.0], [0.0, 1.0]]))
    mean = clip_embedding(frames)
    np.testing.assert_allclose(mean, [0.5**0.5, 0.5**0.5], atol=1e-6)
    assert similarity(mean, frames[0]) == pytest.approx(0.5**0.5)


def test_nothing_in_nothing_out(embedder: FrameEmbedder) -> None:
    dim = embedding_dim(embedder.config)
    assert embedder.images([]).shape == embedder.texts([]).shape == (0, dim)


def test_texts_are_alike_whatever_the_batch(random_config: CurationConfig) -> None:
    words = [f"a red star number {i}" for i in range(5)]
    small = FrameEmbedder(dataclasses.replace(random_config.embed, batch_size=2))
    np.testing.assert_allclose(small.texts(words), FrameEmbedder(random_config.embed).texts(words), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_same(
    random_config: CurationConfig, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """As on a GPU, here on the CPU: the weights have the dtype, what comes out is float32 of unit length."""
    whole = FrameEmbedder(random_config.embed).images(pictures(3))
    monkeypatch.setattr(openclip, "placement", lambda name: (torch.device("cpu"), dtype))
    half = FrameEmbedder(dataclasses.replace(random_config.embed, gpu_dtype=str(dtype).removeprefix("torch.")))
    assert half.clip.model.visual.conv1.weight.dtype == dtype
    images = half.images(pictures(3))
    assert images.dtype == np.float32
    assert (np.sum(images * whole, axis=1) > 0.999).all()


def test_dtype_is_stated_and_the_cpu_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert openclip.placement("float16") == (torch.device("cpu"), torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert openclip.placement("float16") == (torch.device("cuda"), torch.float16)
