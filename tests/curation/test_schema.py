"""The Parquet contract: documented columns, stable ids, rows of the decode pass fit."""

import hashlib

import pyarrow as pa
import pytest

from curation import schema


@pytest.mark.parametrize("table", [schema.VIDEOS, schema.clips_schema(64), schema.RUNS, schema.ERRORS])
def test_every_column_has_stage_unit_and_description(table: pa.Schema) -> None:
    for column in table:
        assert {b"stage", b"unit", b"description"} <= set(column.metadata), column.name
        assert column.metadata[b"description"], column.name
    assert len(set(table.names)) == len(table.names)


def test_embedding_width_is_the_models() -> None:
    assert schema.clips_schema(512).field("clip_embedding").type == pa.list_(pa.float16(), 512)


def test_ids_depend_on_content_and_span_only() -> None:
    digest = hashlib.sha256(b"film").hexdigest()
    assert schema.video_id(digest) == digest[:16]
    assert schema.clip_id(digest, 0, 10) == schema.clip_id(digest, 0, 10)
    assert len({schema.clip_id(digest, 0, 10), schema.clip_id(digest, 0, 11), schema.clip_id(digest, 1, 10)}) == 3


def test_contract_columns_of_the_training_side_exist() -> None:
    wanted = (
        "run_id video_id file_name num_frames train_fps width height clip_ids first_frame_of_clip run_break_reasons"
    )
    assert schema.RUNS.names == wanted.split()
    assert {"clip_id", "caption", "motion_score", "keep", "filter_reasons"} <= set(schema.clips_schema(8).names)
