"""docs/dataset.md names every column of every table, in order, and no other."""

import re
from pathlib import Path

from curation import schema

PAGE = Path(__file__).parents[2] / "docs" / "dataset.md"


def test_the_page_lists_the_columns_of_the_schema() -> None:
    tables = {
        "videos": schema.VIDEOS,
        "clips": schema.clips_schema(128),
        "runs": schema.RUNS,
        "errors": schema.ERRORS,
    }
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    listed = {section.split("\n", 1)[0]: re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) for section in sections}
    assert listed == {name: table.names for name, table in tables.items()}
