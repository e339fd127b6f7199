"""Which clips an export takes, and what it answers where there are none."""

from pathlib import Path

import pytest

from curation import exporters
from curation.dataset import Dataset
from curation.exporters import ExportError, export_opensora, export_videofolder, export_webdataset
from tests.curation.exported import change_clips, kept


def test_conditions_choose(dataset: Dataset) -> None:
    assert list(exporters.choose_clips(dataset).clips["clip_id"]) == sorted(kept(dataset).index)
    fast = exporters.choose_clips(dataset, "motion_score >= 0.2 and caption.str.contains('moves')")
    assert fast.num_without_file == 0
    assert set(fast.clips["clip_id"]) == set(dataset.clips.query("motion_score >= 0.2")["clip_id"])
    everything = exporters.choose_clips(dataset, "duration_s > 0")
    assert (len(everything.clips), everything.num_without_file) == (4, 2)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("beauty > 1", "cannot be evaluated"),
        ("motion_score >", "cannot be evaluated"),
        ("motion_score", "is no condition"),
        ("1 + 1", "is no condition"),
        ("@dataset.clips", "cannot be evaluated"),
        ("caption > 3", "cannot be evaluated"),
        ("", "cannot be evaluated"),
        ("keep and (motion_score > 0.1", "cannot be evaluated"),
        ("keep.iloc[99]", "cannot be evaluated"),
        ("10**400 > motion_score", "cannot be evaluated"),
        ("motion_score > 100", "none of 6 clips fulfils"),
        ("motion_score < 0.1", "has a file of its own"),
    ],
)
def test_conditions_that_choose_nothing(dataset: Dataset, tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export_webdataset(dataset, tmp_path / "out", where)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_clips_without_files_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    change_clips(dataset, lambda row: {"file_name": None})
    for export in (export_videofolder, export_webdataset):
        with pytest.raises(ExportError, match=r"--reselect --materialize auto"):
            export(dataset, tmp_path / "out")
    with pytest.raises(ExportError, match=r"--reselect --materialize auto"):
        export_opensora(dataset, tmp_path / "out.csv")


def test_some_without_a_file_are_counted(dataset: Dataset, tmp_path: Path) -> None:
    clip_id = kept(dataset).index[0]
    change_clips(dataset, lambda row: {"file_name": None} if row["clip_id"] == clip_id else {})
    assert export_webdataset(dataset, tmp_path / "out").endswith("3 clips, 1 clips without a file left out")


def test_selection_not_finished(dataset: Dataset, tmp_path: Path) -> None:
    change_clips(dataset, lambda row: {"keep": None})
    with pytest.raises(ExportError, match="not selected yet"):
        export_videofolder(dataset, tmp_path / "out")
