"""Joins and lineage against a dataset whose figures are known."""

from pathlib import Path

import pandas as pd
import pytest

from curation import lineage
from curation.config_error import CurationError
from curation.lineage import clips_of_runs, clips_with_videos, copies, source_of
from tests.curation import small_dataset

Tables = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = small_dataset.build(tmp_path_factory.mktemp("lineage"))
    return {name: pd.read_parquet(folder / name) for name in ("videos", "clips", "runs")}


def test_every_clip_has_its_video_once_even_where_a_copy_shares_its_id(tables: Tables) -> None:
    joined = clips_with_videos(tables["clips"], tables["videos"])
    assert joined["clip_id"].tolist() == tables["clips"]["clip_id"].tolist()
    assert joined["video_status"].tolist() == ["ok"] * 6
    assert joined["video_codec"].tolist() == ["h264"] * 6
    assert (joined["video_source_uri"] == joined["source_uri"]).all()
    assert joined["num_frames"].tolist() == [16] * 6
    assert joined["video_num_frames"].tolist() == [48] * 6


def test_the_row_that_owns_the_clips_is_joined_wherever_it_stands(tables: Tables) -> None:
    """The same bytes may be superseded at one place and decoded at another."""
    gone = tables["videos"].head(1).assign(status="superseded", source_uri="/old/place.mp4", codec=None)
    videos = pd.concat([tables["videos"].iloc[::-1], gone]).iloc[::-1]
    joined = clips_with_videos(tables["clips"], videos)
    assert joined["video_status"].tolist() == ["ok"] * 6
    assert joined["video_codec"].tolist() == ["h264"] * 6


def test_runs_come_apart_into_clips_in_order(tables: Tables) -> None:
    parts = clips_of_runs(tables["runs"], tables["clips"])
    assert parts["run_id"].tolist() == ["run0"] * 3 + ["run1"] * 3
    assert parts["clip_id"].tolist() == ["clip00", "clip01", "clip02", "clip10", "clip11", "clip12"]
    assert parts["position"].tolist() == [0, 1, 2] * 2
    assert parts["first_frame"].tolist() == [0, 8, 16] * 2
    assert parts["end_frame"].tolist() == [8, 16, 24] * 2
    assert parts["num_frames"].tolist() == [16] * 6
    assert parts["file_name"].isna().sum() == 2
    assert set(parts["run_file_name"]) == {"media/runs/run0.mp4", "media/runs/run1.mp4"}


def test_the_order_of_the_tables_does_not_matter(tables: Tables) -> None:
    shuffled = tables["clips"].sample(frac=1, random_state=0)
    expected = clips_of_runs(tables["runs"], tables["clips"])
    pd.testing.assert_frame_equal(clips_of_runs(tables["runs"], shuffled), expected)
    assert clips_of_runs(tables["runs"].iloc[::-1], tables["clips"])["run_id"].tolist() == ["run1"] * 3 + ["run0"] * 3


def test_every_frame_of_a_run_leads_to_its_source(tables: Tables) -> None:
    for frame in range(24):
        source = source_of("run1", frame, tables["runs"], tables["clips"])
        assert source.time_s == frame / small_dataset.TRAIN_FPS
        assert source.clip_id == f"clip1{frame // 8}"
        assert source.video_id == "video1"
        assert Path(source.source_uri).name == "film1.mp4"


def test_a_run_that_begins_later_and_a_clip_that_owns_no_frame(tables: Tables) -> None:
    clips = tables["clips"].assign(start_s=tables["clips"]["start_s"] + 10)
    runs = tables["runs"].head(1)
    of_two = pd.DataFrame(
        {**runs.to_dict("series"), "clip_ids": [["clip00", "clip02"]], "first_frame_of_clip": [[0, 8]]}
    )
    assert source_of("run0", 9, of_two, clips) == lineage.SourceFrame(
        source_uri=clips["source_uri"].iloc[0], time_s=11.125, video_id="video0", clip_id="clip02"
    )


def test_copies_stand_beside_their_originals(tables: Tables) -> None:
    (pair,) = copies(tables["clips"]).to_dict("records")
    assert (pair["clip_id"], pair["clip_id_of_original"]) == ("clip10", "clip02")
    assert pair["start_s_of_original"] == 2
    assert pair["dup_similarity"] == pytest.approx(0.995)
    assert copies(tables["clips"].assign(dup_of=None)).empty


def test_nothing_in_nothing_out(tables: Tables) -> None:
    none = {name: table.iloc[:0] for name, table in tables.items()}
    assert clips_with_videos(none["clips"], tables["videos"]).empty
    assert clips_of_runs(none["runs"], tables["clips"]).empty
    assert "position" in clips_of_runs(none["runs"], tables["clips"])
    assert copies(none["clips"]).empty


def test_what_is_not_there_is_named(tables: Tables) -> None:
    with pytest.raises(CurationError, match="no run 'x'"):
        source_of("x", 0, tables["runs"], tables["clips"])
    for frame in (-1, 24):
        with pytest.raises(CurationError, match=rf"no frame {frame}: give one of 0\.\.23"):
            source_of("run0", frame, tables["runs"], tables["clips"])
    with pytest.raises(CurationError, match="run run0 names clip clip00"):
        clips_of_runs(tables["runs"], tables["clips"].iloc[1:])
