"""Profiles, JSON round trip, fingerprints and what a wrong value is answered with."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from curation import config
from curation.config_error import CurationError
from curation.config_json import fingerprint, from_json, to_json
from curation.decode_config import SceneConfig
from curation.model_config import EmbedConfig
from curation.profiles import profile


@pytest.mark.parametrize("name", ["demo", "svd"])
def test_json_round_trip_is_exact(name: str) -> None:
    chosen = profile(name)
    assert from_json(to_json(chosen), config.CurationConfig) == chosen


def test_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(CurationError, match=r"'best'.*demo, svd"):
        profile("best")


def test_fingerprint_follows_values_and_ignores_where_the_checkout_is() -> None:
    here = EmbedConfig(weights=Path("/a/demo/weights/coca"))
    assert fingerprint(here) == fingerprint(EmbedConfig(weights=Path("/b/weights/coca")))
    assert fingerprint(here) != fingerprint(dataclasses.replace(here, batch_size=3))
    assert len(fingerprint(here)) == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"colour": 1}', "no field 'colour'"),
        ('{"detectors": [{"detector": "psychic"}]}', "must be one of adaptive, content"),
        ('{"max_clip_s": -1}', "max_clip_s = -1 must be positive"),
    ],
)
def test_from_json_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(CurationError, match=message):
        from_json(text, SceneConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"motion": {"sample_fps": "two"}}', r"motion\.sample_fps = 'two' must be of type float"),
        ('{"scenes": {"min_scene_frames": true}}', r"min_scene_frames = True must be of type int"),
        ('{"text": {"weights_dir": 3}}', r"weights_dir = 3 must be of type Path"),
        ('{"select": {"rules": 5}}', r"select\.rules = 5 must be a list"),
        ('{"select": {"rules": [{"minimum": 1}]}}', r"select\.rules\[0\] lacks the field 'axis'"),
        ('{"runs": {"height": 33}}', "height = 33 must be even"),
        ('{"runs": {"train_fps": 0}}', "train_fps = 0 must be positive"),
        ('{"runs": {"crf": 60}}', r"crf = 60 must be in 0\.\.51"),
        ("[]", "must be an object"),
    ],
)
def test_a_profile_of_ones_own_is_read_with_care(text: str, message: str) -> None:
    with pytest.raises(CurationError, match=message):
        from_json(text, config.CurationConfig)


def test_config_imports_no_torch() -> None:
    modules = "curation.config, curation.profiles, curation.schema, curation.stage_graph"
    check = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
