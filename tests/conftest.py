"""Fixtures shared by all tests."""

import os
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
