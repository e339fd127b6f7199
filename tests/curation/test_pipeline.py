"""The pipeline on a Ray of its own with two CPUs, and the division of a cluster."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from curation import job
from curation.config import AxisRule, CurationConfig, RunConfig, SelectConfig
from curation.dataset import open_dataset, verify

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0), (2, 0), (3, 0), (4, 1), (16, 1), (64, 8)])
def test_one_decode_task_always_fits_beside_the_actors(cpus: float, gpus: float) -> None:
    from curation.pipeline import share

    part = share(cpus, gpus)
    assert part.decode_cpus + 3 * part.model_cpus * part.model_actors[0] <= cpus + 1e-9
    assert 3 * part.model_cpus * part.model_actors[1] <= cpus - part.decode_cpus + 1e-9
    assert part.gpus_text + part.gpus_caption + part.gpus_embed <= gpus + 1e-9
    assert part.model_cpus > 0


def test_a_users_error_on_a_worker_leaves_as_itself() -> None:
    from curation.pipeline import told_by_worker

    text = "The actor died.\nray::MapWorker()\n  ...\ncuration.model_files.ModelFileError: x.bin is damaged: restore it"
    assert str(told_by_worker(RuntimeError(text))) == "x.bin is damaged: restore it"
    assert told_by_worker(RuntimeError("ray::MapWorker\nKeyError: 'x'")) is None


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """One Ray for the tests of this file."""
    from curation.pipeline import cluster

    with cluster(None, 2):
        yield


def test_whole_job_on_two_cpus(two_cpus: None, footage: Path, random_config: CurationConfig, tmp_path: Path) -> None:
    """Every input ends in one status, running again does nothing, other thresholds measure nothing."""
    out, where = tmp_path / "out", job.Cluster()
    summary = job.curate(str(footage), out, random_config, where)
    dataset = open_dataset(out)
    status = {Path(uri).name: status for uri, status in dataset.videos.set_index("source_uri")["status"].items()}
    assert status == {"a.mp4": "ok", "b.mp4": "ok", "copy of a.mp4": "duplicate", "empty.mp4": "failed"}
    assert "ok 2" in summary
    assert len(dataset.clips) == 4
    assert dataset.clips["keep"].notna().all()
    assert len(dataset.runs) == 2
    assert list(dataset.errors["stage"]) == ["decode"]
    assert verify(out) == []

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert job.curate(str(footage), out, random_config, where) == summary
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before

    strict = SelectConfig(rules=(AxisRule(axis="motion_score", minimum=1e6),))
    assert not dataset.reselect(strict)["keep"].any()
    job.reselect(out, dataclasses.replace(random_config, select=strict), where)
    clips = pd.read_parquet(out / "clips")
    assert not clips["keep"].any()
    assert clips["filter_reasons"].map(len).gt(0).all()
    assert open_dataset(out).config.select == strict
    assert verify(out) == []

    (out / dataset.runs["file_name"].iloc[0]).write_bytes(b"cut")
    assert len(verify(out)) == 1


def test_a_job_that_lost_its_end_does_only_what_is_missing(
    two_cpus: None, footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    out, config = tmp_path / "out", dataclasses.replace(random_config, runs=RunConfig(height=16, width=16))
    job.curate(str(footage), out, config, job.Cluster())
    records = sorted((out / "manifest/videos").rglob("*.json"))
    lost = next(path for path in records if json.loads(path.read_text())["video"]["source_uri"].endswith("b.mp4"))
    kept = {path: path.stat().st_mtime_ns for path in records if path != lost}
    clips = pd.read_parquet(out / "clips").sort_values("clip_id").reset_index(drop=True)
    lost.unlink()
    job.curate(str(footage), out, config, job.Cluster())
    assert lost.is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    again = pd.read_parquet(out / "clips").sort_values("clip_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(again, clips)
