"""Embeddings by an open_clip model with random weights: unit length, independent of the batch, open_clip's own."""

import dataclasses
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from curation.config import CurationConfig, EmbedConfig
from curation.model_files import ModelFileError, check_model_files, embedding_dim
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


def test_missing_model_names_file_field_and_profile(random_config: CurationConfig, tmp_path: Path) -> None:
    gone = dataclasses.replace(random_config, embed=EmbedConfig(weights=tmp_path / "nowhere"))
    with pytest.raises(ModelFileError, match=r"'demo' needs .*nowhere/open_clip_config.json \(embed.weights\)"):
        check_model_files(gone)
    with pytest.raises(ModelFileError, match="nowhere"):
        FrameEmbedder(gone.embed)
    named = EmbedConfig(architecture="ViT-L-14-quickgelu", weights=tmp_path / "weights.safetensors")
    assert embedding_dim(named) == 768
