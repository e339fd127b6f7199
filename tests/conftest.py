"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


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
