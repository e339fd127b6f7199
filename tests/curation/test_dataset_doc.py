"""docs/dataset.md says of every column, in order, what the schema says, and names every status and kind of cut."""

import re

from curation import schema
from tests.curation.dataset_page import PAGE, TABLES, column_row, with_columns


def test_the_page_says_of_the_columns_what_the_schema_says() -> None:
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    listed = {
        section.split("\n", 1)[0]: re.findall(r"^\| `.*\|$", section.partition("| column |")[2], re.MULTILINE)
        for section in sections
        if "| column |" in section
    }
    expected = {name: [column_row(column) for column in table] for name, table in TABLES.items()}
    assert listed == expected, "renew them: python -m tests.curation.dataset_page"


def test_renewing_the_columns_changes_nothing_else() -> None:
    page = PAGE.read_text("utf-8")
    without = re.sub(r"^\| `start_s` .*\n", "", page, flags=re.MULTILINE)
    assert without != page
    assert with_columns(without) == with_columns(page) == page


def test_the_page_names_every_status_and_every_kind_of_cut() -> None:
    page = PAGE.read_text("utf-8")
    missing = [name for name in (*schema.VIDEO_STATUSES, *schema.CUT_KINDS) if f"`{name}`" not in page]
    assert not missing
