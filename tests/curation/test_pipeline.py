"""The pipeline on a Ray of its own with two CPUs, and the division of a cluster."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from curation import job
from curation.config import AxisRule, ClipFileConfig, CurationConfig, SelectConfig
from curation.config_error import CurationError
from curation.dataset import open_dataset
from curation.manifest import OutputError
from curation.verify import verify
from tests.curation.tables import assert_same_tables, table

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0), (2, 0), (3, 0), (4, 1), (16, 1), (64, 8)])
def test_every_cpu_can_decode_beside_the_actors(cpus: float, gpus: float) -> None:
    from curation.pipeline import share

    part = share(cpus, gpus)
    decoders = max(1, int(min(cpus, 2)))
    assert decoders * part.decode_cpus + 3 * part.model_cpus <= cpus + 1e-9
    assert part.decode_cpus + 3 * part.model_cpus * part.most_actors <= cpus + 1e-9
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


@pytest.fixture(scope="module")
def whole(
    two_cpus: None, footage: Path, random_config: CurationConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The dataset of the footage and its summary."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, job.curate(str(footage), str(out), random_config, job.Cluster())


@pytest.fixture
def copy_of(whole: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(whole[0], tmp_path / "out")
    return tmp_path / "out"


def test_every_input_ends_in_one_status(whole: tuple[Path, str]) -> None:
    out, summary = whole
    dataset = open_dataset(out)
    status = {Path(uri).name: status for uri, status in dataset.videos.set_index("source_uri")["status"].items()}
    assert status == {"a.mp4": "ok", "b.mp4": "ok", "copy of a.mp4": "duplicate", "empty.mp4": "failed"}
    assert "ok 2" in summary
    assert len(dataset.clips) == 4
    assert dataset.clips["keep"].notna().all()
    assert len(dataset.runs) == 2
    assert list(dataset.errors["stage"]) == ["decode"]
    assert verify(out) == []


def test_running_again_writes_nothing(whole: tuple[Path, str], footage: Path, random_config: CurationConfig) -> None:
    out, summary = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert job.curate(str(footage), str(out), random_config, job.Cluster()) == summary
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_other_thresholds_measure_nothing_and_prune_what_is_no_longer_named(
    copy_of: Path, random_config: CurationConfig
) -> None:
    encode = dataclasses.replace(random_config, clip_files=ClipFileConfig(materialize="encode"))
    none = dataclasses.replace(encode, select=SelectConfig(rules=(AxisRule(axis="motion_score", minimum=1e6),)))
    lenient = dataclasses.replace(encode, select=SelectConfig(rules=()))
    records = {path: path.stat().st_mtime_ns for path in (copy_of / "manifest/videos").rglob("*.json")}
    job.reselect(str(copy_of), lenient, job.Cluster())
    clips = pd.read_parquet(copy_of / "clips")
    assert clips["keep"].all()
    assert [(copy_of / name).is_file() for name in clips["file_name"]] == [True] * 4
    assert verify(copy_of) == []

    job.reselect(str(copy_of), none, job.Cluster())
    clips = pd.read_parquet(copy_of / "clips")
    assert not clips["keep"].any()
    assert clips["file_name"].isna().all()
    assert len(list((copy_of / "media/clips").iterdir())) == 4
    job.reselect(str(copy_of), none, job.Cluster(), job.Manners(prune=True))
    assert list((copy_of / "media/clips").iterdir()) == []
    assert open_dataset(copy_of).config.select == none.select
    assert {path: path.stat().st_mtime_ns for path in (copy_of / "manifest/videos").rglob("*.json")} == records
    assert verify(copy_of) == []


def test_measuring_settings_are_not_for_reselect(copy_of: Path, random_config: CurationConfig) -> None:
    other = dataclasses.replace(random_config, motion=dataclasses.replace(random_config.motion, sample_fps=4.0))
    with pytest.raises(OutputError, match="other settings"):
        job.reselect(str(copy_of), other, job.Cluster())


def test_a_changed_setting_changes_only_its_columns(
    copy_of: Path, footage: Path, random_config: CurationConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table(copy_of, "clips")
    text = dataclasses.replace(random_config.text, canvas_px=64)
    job.curate(str(footage), str(copy_of), dataclasses.replace(random_config, text=text), job.Cluster())
    assert "stages that run again: text (2 videos)" in capsys.readouterr().err
    after = table(copy_of, "clips")
    columns = ["ocr_area_ratio", "ocr_area_ratio_frames", "keep", "filter_reasons"]
    pd.testing.assert_frame_equal(after.drop(columns=columns), before.drop(columns=columns))
    job.curate(str(footage), str(copy_of), random_config, job.Cluster())
    pd.testing.assert_frame_equal(table(copy_of, "clips"), before)
    assert verify(copy_of) == []


def test_a_job_that_lost_its_end_does_only_what_is_missing(
    copy_of: Path, whole: tuple[Path, str], footage: Path, random_config: CurationConfig
) -> None:
    records = sorted((copy_of / "manifest/videos").rglob("*.json"))
    lost = next(path for path in records if json.loads(path.read_text())["video"]["source_uri"].endswith("b.mp4"))
    kept = {path: path.stat().st_mtime_ns for path in records if path != lost}
    lost.unlink()
    job.curate(str(footage), str(copy_of), random_config, job.Cluster())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_tables(copy_of, whole[0])


def test_changed_copied_and_returning_files(
    two_cpus: None, footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    first, second = (footage / "a.mp4").read_bytes(), (footage / "b.mp4").read_bytes()
    (films / "x.mp4").write_bytes(first)

    def statuses() -> dict[str, list[str]]:
        job.curate(str(films), str(out), random_config, job.Cluster())
        assert verify(out) == []
        videos = pd.read_parquet(out / "videos").sort_values("status")
        return {str(Path(uri).name): list(mine["status"]) for uri, mine in videos.groupby("source_uri")}

    assert statuses() == {"x.mp4": ["ok"]}
    (films / "y.mp4").write_bytes(first)
    assert statuses() == {"x.mp4": ["ok"], "y.mp4": ["duplicate"]}
    (films / "x.mp4").write_bytes(second)
    assert statuses() == {"x.mp4": ["ok", "superseded"], "y.mp4": ["ok"]}
    assert len(pd.read_parquet(out / "clips")) == 4
    (films / "x.mp4").write_bytes(first)
    assert statuses() == {"x.mp4": ["duplicate", "superseded"], "y.mp4": ["ok"]}


def test_a_budget_of_failures_ends_the_job_and_keeps_what_is_finished(
    two_cpus: None, footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(CurationError, match="--max-failures allows 0"):
        job.curate(str(footage), out, random_config, job.Cluster(), job.Manners(max_failures=0))
    assert "failed" in set(pd.read_parquet(f"{out}/videos")["status"])
    job.curate(str(footage), out, random_config, job.Cluster(), job.Manners(max_failures=1))
    assert verify(out) == []


def test_stage_by_stage_gives_the_same_rows(
    whole: tuple[Path, str],
    footage: Path,
    random_config: CurationConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a cluster with GPUs: every stage an operator of its own."""
    monkeypatch.setattr("curation.pipeline.has_gpus", lambda gpus: True)
    job.curate(str(footage), str(tmp_path / "stages"), random_config, job.Cluster())
    assert_same_tables(tmp_path / "stages", whole[0])


def test_rows_do_not_depend_on_the_number_of_workers(
    whole: tuple[Path, str], two_cpus: None, footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    import ray

    from curation.pipeline import cluster

    ray.shutdown()
    with cluster(None, 1):
        job.curate(str(footage), str(tmp_path / "one"), random_config, job.Cluster())
    assert_same_tables(tmp_path / "one", whole[0])
