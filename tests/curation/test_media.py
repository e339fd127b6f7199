"""Files of runs and clips: made once, found again, made anew when anything about them changes, pruned when unnamed."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from curation.config import ClipFileConfig, CurationConfig, RunConfig
from curation.isolation import WorkerDiedError
from curation.manifest import Manifest
from curation.media import MediaPlan, clip_media, made, make, run_media, unreferenced, write_here
from curation.runs import plan_runs
from curation.store import Store, StoreError
from curation.video import decode
from tests.curation.test_runs import clip

CONFIG = CurationConfig(runs=RunConfig(train_fps=8.0), clip_files=ClipFileConfig(materialize="encode"))


def clips_of(footage: Path) -> list[dict[str, Any]]:
    """Two clips of 24 frames each, in the time base of the file (1/16384 s would do as well)."""
    known = {"source_uri": str(footage / "a.mp4"), "fps": 8.0, "num_frames": 24, "width": 64, "height": 64}
    ticks = [frame.pts for frame in decode(str(footage / "a.mp4"))]
    ticks.append(2 * ticks[-1] - ticks[-2])
    spans = [{"start_pts": ticks[24 * i], "end_pts": ticks[24 * i + 24], "start_frame": 24 * i} for i in range(2)]
    return [{**clip(i, 3 * i, 3 * i + 3, **known), **spans[i]} for i in range(2)]


def run_of(footage: Path, config: CurationConfig = CONFIG) -> MediaPlan:
    return run_media(plan_runs(clips_of(footage), config.runs)[0], config)


@pytest.mark.parametrize("kind", ["runs", "clips"])
def test_made_once_and_found_again(footage: Path, tmp_path: Path, kind: str) -> None:
    store = Store.at(tmp_path)
    plan = run_of(footage) if kind == "runs" else clip_media(clips_of(footage)[1], CONFIG)
    assert made([plan], store) == {}
    facts, error = make(plan, store, CONFIG)
    assert error is None
    count = facts["num_frames"] if kind == "runs" else facts["file_num_frames"]
    assert count == sum(1 for _ in decode(store.place(facts["file_name"]))) == (48 if kind == "runs" else 24)
    assert made([plan], store) == {plan.id: facts}
    assert made([dataclasses.replace(plan, made_from="another time")], store) == {}
    store.delete(facts["file_name"])
    assert made([plan], store) == {}


def test_a_note_never_vouches_for_another_file(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between a file and its note leaves none that speaks for what was there before."""
    store, row = Store.at(tmp_path), clips_of(footage)[0]
    other = dataclasses.replace(CONFIG, runs=RunConfig(train_fps=8.0, crf=30))
    make(clip_media(row, CONFIG), store, CONFIG)
    monkeypatch.setattr("curation.media._written", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(clip_media(row, other), store, other)
    assert made([clip_media(row, CONFIG)], store) == {}


def test_a_decoder_that_dies_is_tried_again(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Dying:
        def call(self, plan: MediaPlan, store: Store, config: CurationConfig) -> dict[str, Any]:
            calls.append(plan.id)
            if len(calls) < 3:
                raise WorkerDiedError("killed")
            return write_here(plan, store, config)

    monkeypatch.setattr("curation.media._writer", lambda *limits: Dying())
    facts, error = make(run_of(footage), Store.at(tmp_path), CONFIG)
    assert error is None
    assert facts["num_frames"] == 48
    assert len(calls) == 3


def test_what_decides_a_file_changes_its_plan(footage: Path) -> None:
    other = dataclasses.replace(CONFIG, runs=RunConfig(train_fps=8.0, crf=20))
    row = clips_of(footage)[0]
    assert clip_media(row, CONFIG).made_from != clip_media(row, other).made_from
    assert clip_media(row, CONFIG).made_from != clip_media({**row, "end_pts": 1}, CONFIG).made_from
    assert run_of(footage).made_from != run_of(footage, other).made_from


def test_a_source_that_is_gone_is_an_error_and_no_file(footage: Path, tmp_path: Path) -> None:
    plan = run_of(footage)
    assert plan.run is not None
    gone = dataclasses.replace(plan, run=dataclasses.replace(plan.run, source_uri="/gone.mp4"))
    facts, error = make(gone, Store.at(tmp_path), CONFIG)
    assert facts == {}
    assert "/gone.mp4" in (error or "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_full_disk_is_no_fault_of_the_source(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        write_here(run_of(footage), Store.at(tmp_path), CONFIG)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_only_unnamed_files_are_unreferenced(tmp_path: Path, random_config: CurationConfig) -> None:
    store = Manifest.open(Store.at(tmp_path), random_config, "/v", 1).store
    for name in ("media/runs/a.mp4", "media/runs/b.mp4", "media/clips/_1_c.mp4", "media/metadata.parquet"):
        store.write(name, b"x")
    for name in ("manifest/runs/a.json", "manifest/runs/b.json"):
        store.write(name, b"{}")
    gone = unreferenced(store, {"media/runs/a.mp4"})
    assert sorted(gone) == ["manifest/runs/b.json", "media/clips/_1_c.mp4", "media/runs/b.mp4"]
    assert os.path.exists(tmp_path / "media/runs/b.mp4")  # noqa: PTH110
