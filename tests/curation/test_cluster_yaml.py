"""ray_cluster.yaml against the schema that Ray itself validates with, and against what the README promises of it."""

import fnmatch
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    return loaded


def test_valid_against_rays_schema(cluster: dict[str, Any]) -> None:
    import importlib.util

    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = Path(spec.origin).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text()))


def test_head_and_gpu_worker(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    workers = {name: node for name, node in types.items() if name != cluster["head_node_type"]}
    assert any(node["resources"].get("GPU", 0) >= 1 for node in workers.values())
    assert any("pip install" in command and "nuwa-xl" in command for command in cluster["setup_commands"])


def test_what_must_not_travel_is_excluded(cluster: dict[str, Any]) -> None:
    for path in (".venv/bin", ".git", "data/toons", "runs/demo", "models/a.pth", "nuwa/__pycache__", "films/clip.mp4"):
        assert stays(path, cluster["rsync_exclude"]), path
    assert cluster["rsync_filter"] == [".gitignore"]


def test_all_of_the_code_travels(cluster: dict[str, Any]) -> None:
    packages = ("curation", "nuwa", "pipelines", "demo")
    files = [path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py")]
    assert Path("nuwa/models/mtd.py") in files
    assert [path for path in files if stays(str(path), cluster["rsync_exclude"])] == []


def stays(path: str, patterns: list[str]) -> bool:
    """Whether rsync leaves `path` out: patterns match any part of it, those with a leading slash the first only."""
    parts = path.split("/")
    return any(
        fnmatch.fnmatchcase(parts[0], pattern[1:])
        if pattern.startswith("/")
        else any(fnmatch.fnmatchcase(part, pattern) for part in parts)
        for pattern in patterns
    )


def test_token_authentication_is_on(cluster: dict[str, Any]) -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in cluster[commands][-1]
    assert any(path.endswith(".ray/auth_token") for path in cluster["file_mounts"])


@pytest.mark.ray
def test_ray_fills_in_the_rest(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert "aws" in prepared["provider"]["type"]
