"""What the operators do to rows, without Ray: nothing is lost, mixed up, or fatal."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.config import CurationConfig
from curation.endings import collect
from curation.manifest import Manifest, rows_to_table
from curation.model_config import ChoiceConfig
from curation.operators import (
    CaptionStage,
    EmbedStage,
    TextStage,
    add_columns,
    analyse,
    merge_captions,
    row_schema,
    without_pictures,
)
from curation.records import Row, VideoRecord
from curation.stage_graph import GRAPH, fingerprints
from curation.store import Store
from curation.video import content_hash

DIM = 128


@pytest.fixture
def manifest(tmp_path: Path, random_config: CurationConfig, footage: Path) -> Manifest:
    return Manifest.open(Store.at(tmp_path / "out"), random_config, str(footage), 1)


def analysed(
    path: Path, manifest: Manifest, known: str | None = None, stale: tuple[str, ...] = tuple(GRAPH)
) -> pa.Table:
    item = {"uri": str(path), "sha256": content_hash(str(path))[0], "record": known, "stale": list(stale)}
    return pa.concat_tables(analyse(pa.Table.from_pylist([item]), manifest.config, DIM, manifest.store))


def measured(table: pa.Table, config: CurationConfig) -> VideoRecord:
    """The record after all operators."""
    for stage in (TextStage(config, DIM), CaptionStage(config, DIM)):
        table = stage(table)
    table = EmbedStage(config, DIM)(merge_captions(table, config, DIM))
    (record,) = collect(without_pictures(table).to_pylist(), DIM, fingerprints(config))
    return record


def clip_rows(num: int) -> pa.Table:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    rows: list[Row] = [{"uri": "/v.mp4", "video": json.dumps({"num_clips": num})}]
    for i in range(num):
        shape = {"frames": frames.tobytes(), "frames_shape": [3, 8, 8, 3]}
        known = {"uri": "/v.mp4", "source_uri": "/v.mp4", "video_id": "v", "stale": ["text"]}
        rows.append({**known, "clip_id": f"c{i}", "clip_index": i, **shape})
    return rows_to_table(rows, row_schema(DIM))


def test_video_to_record(footage: Path, manifest: Manifest) -> None:
    record = measured(analysed(footage / "a.mp4", manifest), manifest.config)
    assert record.video["status"] == "ok"
    assert record.video["num_clips"] == len(record.clips) == 2
    assert record.stages == manifest.stages
    assert [clip["clip_index"] for clip in record.clips] == [0, 1]
    for clip in record.clips:
        assert np.linalg.norm(clip["clip_embedding"]) == pytest.approx(1.0, abs=2e-3)
        assert np.shape(clip["frame_embeddings"]) == (3, DIM)
        assert clip["aesthetic_score"] == pytest.approx(np.mean(clip["aesthetic_score_frames"]), abs=1e-5)
        assert clip["clip_similarity"] == clip["clip_similarity_video"]
        assert len(clip["clip_similarity_coca_frames"] or [0.0] * 3) == 3
        assert {"caption", "caption_coca", "caption_video", "caption_llm"} <= clip.keys()
    json.dumps(dataclasses.asdict(record))


@pytest.mark.parametrize("stage", ["motion", "text", "caption", "merge", "choice", "embed", "aesthetics"])
def test_a_stage_run_again_gives_what_it_gave(footage: Path, manifest: Manifest, stage: str) -> None:
    """Reading the stored times again, or the stored embeddings, leads to the very same row as decoding did."""
    first = measured(analysed(footage / "a.mp4", manifest), manifest.config)
    manifest.records.write(first, manifest.measured)
    (file,) = manifest.records.files().values()
    table = analysed(footage / "a.mp4", manifest, file.name, (stage,))
    rows = [row for row in table.to_pylist() if row["clip_id"]]
    assert all(row[column] is None for row in rows for column in GRAPH[stage].columns if stage != "motion")
    assert all((row["frames"] is None) == (stage in ("merge", "choice", "aesthetics")) for row in rows)
    assert measured(table, manifest.config).clips == first.clips


def test_pictures_that_cannot_be_read_again_are_errors_and_other_scores_stay(
    footage: Path, manifest: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes((footage / "a.mp4").read_bytes())
    first = measured(analysed(path, manifest), manifest.config)
    manifest.records.write(first, manifest.measured)
    (file,) = manifest.records.files().values()
    item = {"uri": "/gone.mp4", "sha256": "a" * 64, "record": file.name, "stale": ["text"]}
    table = pa.concat_tables(analyse(pa.Table.from_pylist([item]), manifest.config, DIM, manifest.store))
    record = measured(table, manifest.config)
    assert [error["stage"] for error in record.errors] == ["text", "text"]
    assert [clip["ocr_area_ratio"] for clip in record.clips] == [None, None]
    assert [clip["caption"] for clip in record.clips] == [clip["caption"] for clip in first.clips]


def test_a_merger_that_fails_leaves_the_other_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clip has an error, no merged caption, and the chosen one all the same."""
    from curation.stages import merge

    def down(self: merge.Merger, pairs: list[tuple[str, str]]) -> list[str]:
        if ("a", "b") in pairs:
            raise merge.MergeError("the endpoint is down")
        return [f"{image} and {video}" for image, video in pairs]

    monkeypatch.setattr(merge.Merger, "merge", down)
    rows = clip_rows(2).to_pylist()
    for row, image, video in zip(rows[1:], ("a", "c"), ("b", "d"), strict=True):
        row |= {"caption_coca": image, "caption_video": video, "stale": ["merge", "choice"]}
    config = dataclasses.replace(CurationConfig(), choice=ChoiceConfig(chosen="llm"))
    table = merge_captions(rows_to_table(rows, row_schema(DIM)), config, DIM)
    (record,) = collect(table.to_pylist(), DIM, {})
    assert [(clip["caption_llm"], clip["caption"]) for clip in record.clips] == [(None, "b"), ("c and d", "c and d")]
    assert [error["error_message"] for error in record.errors] == ["the endpoint is down"]


def test_unreadable_video_is_a_row(footage: Path, manifest: Manifest) -> None:
    (record,) = collect(analysed(footage / "empty.mp4", manifest).to_pylist(), DIM, {})
    assert record.video["status"] == "failed"
    assert record.clips == []
    assert record.errors[0]["stage"] == record.video["error_stage"] == "decode"
    assert "\n" not in record.errors[0]["error_message"]


def test_one_bad_clip_costs_only_itself() -> None:
    calls = []

    def measure(rows: list[Row]) -> list[Row]:
        calls.append(len(rows))
        if any(row["clip_id"] == "c1" for row in rows):
            raise RuntimeError("no text\nin this one")
        return [{"ocr_area_ratio": 0.5} for _ in rows]

    table = add_columns("text", measure, clip_rows(3), DIM)
    assert calls == [3, 1, 1, 1]
    assert table["ocr_area_ratio"].to_pylist() == [None, 0.5, None, 0.5]
    (record,) = collect(table.to_pylist(), DIM, {})
    assert [error["clip_id"] for error in record.errors] == ["c1"]
    assert record.errors[0]["error_message"] == "no text in this one"


def test_mistakes_in_the_program_are_not_swallowed() -> None:
    def measure(rows: list[Row]) -> list[Row]:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        add_columns("text", measure, clip_rows(1), DIM)


def test_clips_of_many_videos_in_any_order() -> None:
    rows: list[Row] = []
    for v in range(5):
        rows.append({"uri": f"/{v}.mp4", "video": json.dumps({"num_clips": v, "source_uri": f"/{v}.mp4"})})
        rows += [{"uri": f"/{v}.mp4", "clip_id": f"{v}-{i}", "clip_index": i, "caption": f"{v}-{i}"} for i in range(v)]
    order = np.random.default_rng(0).permutation(len(rows))
    table = rows_to_table([rows[i] for i in order], row_schema(DIM))
    records = {record.video["source_uri"]: record for record in collect(table.to_pylist(), DIM, {})}
    assert {uri: [clip["caption"] for clip in record.clips] for uri, record in records.items()} == {
        f"/{v}.mp4": [f"{v}-{i}" for i in range(v)] for v in range(5)
    }


def test_lost_rows_are_noticed() -> None:
    rows = [{"uri": "/v.mp4", "clip_id": None, "video": json.dumps({"num_clips": 1})}]
    with pytest.raises(AssertionError, match="lost between operators"):
        list(collect(rows, DIM, {}))
