"""A changed setting makes stale exactly the stages that see it."""

import dataclasses
from typing import Any

import pytest

from curation import profiles
from curation.config import CurationConfig
from curation.schema import clips_schema
from curation.stage_graph import GRAPH, fingerprints, measurement_fingerprint, stale_stages

ALL = tuple(GRAPH)
CAPTIONS = ("merge", "choice", "similarity")


def changed(section: str, **values: Any) -> CurationConfig:
    config = profiles.demo()
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


@pytest.mark.parametrize(
    ("section", "values", "stale"),
    [
        ("decode", {"key_frame_px": 99}, ALL),
        ("scenes", {"max_clip_s": 9.0}, ALL),
        ("motion", {"sample_fps": 4.0}, ("motion",)),
        ("text", {"canvas_px": 99}, ("text",)),
        ("caption", {"max_tokens": 9}, ("caption", *CAPTIONS)),
        ("video_caption", {"max_tokens": 9}, ("video_caption", *CAPTIONS)),
        ("merge", {"llm_temperature": 0.5}, CAPTIONS),
        ("merge", {"llm_concurrency": 2, "llm_timeout_s": 9.0}, ()),
        ("choice", {"chosen": "coca"}, ("choice", "similarity")),
        ("embed", {"architecture": "ViT-B-32"}, ("embed", "aesthetics", "similarity")),
        ("decode", {"time_limit_s": 9.0, "max_attempts": 9}, ()),
        ("embed", {"batch_size": 9}, ()),
        ("select", {"rules": ()}, ()),
        ("runs", {"train_fps": 4.0}, ()),
    ],
)
def test_stale_stages(section: str, values: dict[str, Any], stale: tuple[str, ...]) -> None:
    before, after = profiles.demo(), changed(section, **values)
    assert stale_stages(fingerprints(before), fingerprints(after)) == stale
    assert (measurement_fingerprint(before) == measurement_fingerprint(after)) == (not stale)


def test_nothing_measured_makes_all_stale() -> None:
    assert stale_stages({}, fingerprints(profiles.demo())) == ALL


def test_every_stage_fills_columns_of_clips() -> None:
    names = clips_schema(4).names
    columns = [column for stage in GRAPH.values() for column in stage.columns]
    assert set(columns) <= set(names)
    assert len(columns) == len(set(columns))
    assert all(earlier in GRAPH for stage in GRAPH.values() for earlier in stage.after)
