"""docs/dataset.md says of every column, in order, what the schema says, and names every status and kind of cut."""

import re
from pathlib import Path

import pyarrow as pa

from curation import schema

PAGE = Path(__file__).parents[2] / "docs" / "dataset.md"


def row(column: pa.Field) -> str:
    text = {key.decode(): value.decode() for key, value in column.metadata.items()}
    kind = re.sub(r"(item|element): ", "", str(column.type))
    return f"| `{column.name}` | {kind} | {text['unit']} | {text['stage']} | {text['description']} |"


def test_the_page_says_of_the_columns_what_the_schema_says() -> None:
    tables = {
        "videos": schema.VIDEOS,
        "clips": schema.clips_schema(128),
        "runs": schema.RUNS,
        "errors": schema.ERRORS,
    }
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    listed = {
        section.split("\n", 1)[0]: re.findall(r"^\| `.*\|$", section.partition("| column |")[2], re.MULTILINE)
        for section in sections
    }
    assert listed == {name: [row(column) for column in table] for name, table in tables.items()}


def test_the_page_names_every_status_and_every_kind_of_cut() -> None:
    page = PAGE.read_text("utf-8")
    missing = [name for name in (*schema.VIDEO_STATUSES, *schema.CUT_KINDS) if f"`{name}`" not in page]
    assert not missing
