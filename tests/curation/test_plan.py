"""What is left to do: nothing measured twice, nothing forgotten."""

import dataclasses
from pathlib import Path

import pytest

from curation.config import CurationConfig
from curation.endings import unreadable
from curation.manifest import Manifest
from curation.plan import Work, plan_work
from curation.records import VideoRecord
from curation.sources import Source
from curation.stage_graph import GRAPH
from curation.store import Store
from tests.curation.made_by_hand import record

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def manifest(tmp_path: Path, random_config: CurationConfig) -> Manifest:
    return Manifest.open(Store.at(tmp_path / "out"), random_config, str(tmp_path), num_inputs=9)


def sources(*names: str) -> list[Source]:
    return [Source(f"/v/{name}.mp4", 10, 1) for name in names]


def measured(manifest: Manifest, name: str, sha256: str) -> None:
    manifest.records.write(record(f"/v/{name}.mp4", sha256, stages=manifest.stages), manifest.measured)


def planned(work: Work) -> list[str]:
    return [Path(todo.uri).stem for todo in work.measure]


def settled(work: Work) -> dict[str, str]:
    return {Path(record.video["source_uri"]).stem: record.video["status"] for record in work.settle}


def test_new_known_copied_and_unreadable(manifest: Manifest) -> None:
    measured(manifest, "a", A)
    hashes = {"/v/a.mp4": A, "/v/b.mp4": B, "/v/b2.mp4": B, "/v/a2.mp4": A, "/v/gone.mp4": None}
    work = plan_work(sources("a", "a2", "b", "b2", "gone"), hashes, manifest)
    assert planned(work) == ["b"]
    assert work.measure[0].stale == tuple(GRAPH)
    assert settled(work) == {"a2": "duplicate", "b2": "duplicate", "gone": "failed"}
    for record_ in work.settle:
        manifest.records.write(record_, manifest.measured)
    measured(manifest, "b", B)
    assert plan_work(sources("a", "a2", "b", "b2", "gone"), hashes, manifest) == Work([], [])


def test_a_copy_takes_over_when_the_first_has_changed(manifest: Manifest) -> None:
    measured(manifest, "a", A)
    hashes: dict[str, str | None] = {"/v/a.mp4": A, "/v/z.mp4": A}
    for record_ in plan_work(sources("a", "z"), hashes, manifest).settle:
        manifest.records.write(record_, manifest.measured)
    manifest.remember_hashes(sources("a"), {"/v/a.mp4": A})
    manifest.remember_hashes(sources("a"), {"/v/a.mp4": C})
    work = plan_work(sources("a", "z"), {"/v/a.mp4": C, "/v/z.mp4": A}, manifest)
    assert planned(work) == ["a", "z"]
    assert work.settle == []


def test_a_changed_setting_runs_only_what_sees_it(manifest: Manifest) -> None:
    measured(manifest, "a", A)
    text = dataclasses.replace(manifest.config.text, canvas_px=99)
    changed = manifest.with_config(dataclasses.replace(manifest.config, text=text))
    (todo,) = plan_work(sources("a"), {"/v/a.mp4": A}, changed).measure
    assert todo.stale == ("text",)
    assert todo.record is not None
    assert manifest.store.exists(todo.record)


def test_failures_are_tried_again_only_when_asked(manifest: Manifest) -> None:
    failed = record("/v/a.mp4", A)
    manifest.records.write(VideoRecord({**failed.video, "status": "quarantined"}), manifest.measured)
    manifest.records.write(unreadable("/v/gone.mp4"), manifest.measured)
    with_error = record("/v/b.mp4", B, stages=manifest.stages)
    error = {"stage": "caption", "clip_id": with_error.clips[0]["clip_id"]}
    manifest.records.write(dataclasses.replace(with_error, errors=[error]), manifest.measured)
    hashes = {"/v/a.mp4": A, "/v/b.mp4": B, "/v/gone.mp4": None}
    assert plan_work(sources("a", "b", "gone"), hashes, manifest) == Work([], [])
    work = plan_work(sources("a", "b", "gone"), hashes, manifest, retry_failed=True)
    assert {Path(todo.uri).stem: todo.stale for todo in work.measure} == {
        "a": tuple(GRAPH),
        "b": ("caption", "merge", "choice", "similarity"),
    }
