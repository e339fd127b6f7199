"""Fixtures shared by all tests."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")


@pytest.fixture(scope="session")
def media() -> Callable[[str], Path]:
    """Return `media(name)`: the path of a real video or image below `$NUWA_MEDIA`, or a skip with the reason."""

    def find(name: str) -> Path:
        root = os.environ.get("NUWA_MEDIA")
        if not root:
            pytest.skip("real media: set NUWA_MEDIA to a folder of test videos")
        path = Path(root) / name
        if not path.exists():
            pytest.skip(f"real media: {path} is missing")
        return path

    return find


@pytest.fixture(scope="session")
def clip_material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `clip_commands.fill` makes, once."""
    from tests import clip_commands  # most tests need none of it

    folder = tmp_path_factory.mktemp("clips")
    clip_commands.fill(folder)
    return folder


@pytest.fixture
def clip_folder(clip_material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that modes read, and the models beside them."""
    folder = tmp_path / "here"
    shutil.copytree(clip_material / "files", folder)
    for model in (clip_material / "models").iterdir():
        (folder / model.name).symlink_to(model)
    monkeypatch.chdir(folder)
    return folder
