"""What the operators do to rows, without Ray: nothing is lost, mixed up, or fatal."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation import operators
from curation.config import CurationConfig
from curation.manifest import Row, rows_to_table
from curation.operators import (
    MAX_ATTEMPTS,
    CaptionStage,
    EmbedStage,
    add_columns,
    analyse,
    collect,
    forget_attempts,
    row_schema,
)
from curation.video import content_hash

DIM = 128


def analysed(footage: Path, config: CurationConfig, attempts: Path, *names: str) -> list[pa.Table]:
    items = [{"uri": str(footage / name), "sha256": content_hash(str(footage / name))[0]} for name in names]
    return list(analyse(pa.Table.from_pylist(items), config, DIM, attempts))


def clip_rows(num: int) -> pa.Table:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    rows: list[Row] = [{"uri": "/v.mp4", "video": json.dumps({"num_clips": num})}]
    for i in range(num):
        shape = {"frames": frames.tobytes(), "frames_shape": [3, 8, 8, 3]}
        rows.append({"uri": "/v.mp4", "clip_id": f"c{i}", "clip_index": i, "video_id": "v", **shape})
    return rows_to_table(rows, row_schema(DIM))


def test_video_to_record(footage: Path, random_config: CurationConfig, tmp_path: Path) -> None:
    tables = analysed(footage, random_config, tmp_path, "a.mp4")
    tables = [CaptionStage(random_config, DIM)(table) for table in tables]
    tables = [EmbedStage(random_config, DIM)(table) for table in tables]
    assert "frames" not in tables[0].column_names
    (record,) = collect((row for table in tables for row in table.to_pylist()), DIM)
    assert record.video["status"] == "ok"
    assert record.video["num_clips"] == len(record.clips) == 2
    assert [clip["clip_index"] for clip in record.clips] == [0, 1]
    for clip in record.clips:
        assert np.linalg.norm(clip["clip_embedding"]) == pytest.approx(1.0, abs=2e-3)
        assert clip["aesthetic_score"] == pytest.approx(np.mean(clip["aesthetic_score_frames"]), abs=1e-5)
        assert clip["clip_similarity"] == clip["clip_similarity_video"]
        assert {"caption", "caption_coca", "caption_video", "caption_llm"} <= clip.keys()
    json.dumps(dataclasses.asdict(record))


def test_unreadable_video_is_a_row(footage: Path, random_config: CurationConfig, tmp_path: Path) -> None:
    tables = analysed(footage, random_config, tmp_path, "empty.mp4")
    (record,) = collect((row for table in tables for row in table.to_pylist()), DIM)
    assert record.video["status"] == "failed"
    assert record.clips == []
    assert record.errors[0]["stage"] == record.video["error_stage"] == "decode"
    assert "\n" not in record.errors[0]["error_message"]


def test_a_file_that_takes_its_process_down_is_quarantined(
    footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    sha256 = content_hash(str(footage / "a.mp4"))[0]
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert operators.begin_attempt(tmp_path, sha256) == attempt
    (table,) = analysed(footage, random_config, tmp_path, "a.mp4")
    (record,) = collect(table.to_pylist(), DIM)
    assert record.video["status"] == "quarantined"
    assert record.errors[0]["error_type"] == "WorkerLost"
    forget_attempts(tmp_path)
    assert operators.begin_attempt(tmp_path, sha256) == 1


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
    (record,) = collect(table.to_pylist(), DIM)
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
    records = {record.video["source_uri"]: record for record in collect(table.to_pylist(), DIM)}
    assert {uri: [clip["caption"] for clip in record.clips] for uri, record in records.items()} == {
        f"/{v}.mp4": [f"{v}-{i}" for i in range(v)] for v in range(5)
    }


def test_lost_rows_are_noticed() -> None:
    rows = [{"uri": "/v.mp4", "clip_id": None, "video": json.dumps({"num_clips": 1})}]
    with pytest.raises(AssertionError, match="lost between operators"):
        list(collect(rows, DIM))
