"""Fixtures of the curation tests: models with random weights in the files the real ones have, and small videos."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from curation import profiles
from curation.config import CurationConfig
from curation.dataset import Dataset, open_dataset
from curation.model_config import AestheticsConfig, CaptionConfig, EmbedConfig
from curation.video import write_video


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with coca/ (random weights, fixed seed) and aesthetic.safetensors."""
    from demo import coca

    folder = tmp_path_factory.mktemp("models")
    coca.save_model(coca.create_model(seed=0), folder / "coca")
    weight = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
    save_file({"weight": weight, "bias": np.array([5.0], np.float32)}, folder / "aesthetic.safetensors")
    return folder


@pytest.fixture(scope="session")
def random_config(model_folder: Path) -> CurationConfig:
    """The demo profile on the random models."""
    return dataclasses.replace(
        profiles.demo(),
        embed=EmbedConfig(weights=model_folder / "coca"),
        caption=CaptionConfig(weights=model_folder / "coca"),
        aesthetics=AestheticsConfig(head=model_folder / "aesthetic.safetensors"),
    )


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos (two scenes each, 6 s, 64x64, 8 fps), a copy of one, an empty file and a text file."""
    folder = tmp_path_factory.mktemp("footage")
    for name, seed in (("a.mp4", 1), ("b.mp4", 2)):
        write_video(folder / name, two_scenes(seed), fps=8.0)
    (folder / "copy of a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "empty.mp4").touch()
    (folder / "notes.txt").write_text("not a video")
    return folder


def two_scenes(seed: int) -> list[np.ndarray]:
    """48 frames (64 64 3) uint8: a bright square moves over one background, then over quite another."""
    rng = np.random.default_rng(seed)
    frames = []
    for scene in range(2):
        background = rng.integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8) // 3 + 160 * scene
        for step in range(24):
            frame = background.astype(np.uint8).copy()
            frame[20:40, 2 * step : 2 * step + 14] = 255 - 200 * scene
            frames.append(frame)
    return frames


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset with four kept clips, each with its file, of six."""
    from tests.curation.exported import build_with_files

    return build_with_files(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def dataset(exported: Path, tmp_path: Path) -> Dataset:
    """A copy of it to change; a test file with another dataset in mind has a fixture of that name of its own."""
    return open_dataset(shutil.copytree(exported, tmp_path / "dataset"))
