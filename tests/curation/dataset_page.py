"""docs/dataset.md and what it shows: its queries run on any dataset, its outputs and columns renewed.

python -m tests.curation.dataset_page                                write the columns of the schema into the page
python -m tests.curation.dataset_page --dataset runs/page/dataset    also the outputs of the queries
python -m tests.curation.dataset_page --copies runs/page/footage     add a copy, a remuxed copy and a broken file
"""

import argparse
import ast
import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pandas as pd
import pyarrow as pa

from curation import schema

PAGE = Path(__file__).parents[2] / "docs" / "dataset.md"
PLACE = "runs/page/dataset"
"""The dataset that the page opens."""
TABLES = {"videos": schema.VIDEOS, "clips": schema.clips_schema(128), "runs": schema.RUNS, "errors": schema.ERRORS}
DISPLAY = ("display.width", 118, "display.max_columns", 20, "display.max_colwidth", 48, "display.precision", 4)
_QUERY = re.compile(
    r"^### (?P<title>.*?)\n.*?```python\n(?P<code>.*?)```\n\n```text\n(?P<output>.*?)```", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Query:
    """One query of the page with the output that the page shows."""

    title: str
    code: str
    output: str


def preparation(page: str) -> str:
    """The code at the head of the queries, which opens the dataset."""
    return re.findall(r"```python\n(.*?)```", page.partition("## Ten queries")[2], re.DOTALL)[0]


def queries(page: str) -> list[Query]:
    """The queries in their order."""
    found = _QUERY.finditer(page.partition("## Ten queries")[2])
    return [Query(match["title"], match["code"], match["output"]) for match in found]


def run_queries(page: str, dataset: Path) -> dict[str, str]:
    """Title → what the query prints, or the value of its last line as pandas shows it. In a folder of their own."""
    names: dict[str, Any] = {}
    outputs = {}
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, pd.option_context(*DISPLAY):
        os.chdir(folder)
        try:
            _run(preparation(page).replace(PLACE, str(dataset)), names)
            for query in queries(page):
                outputs[query.title] = _run(query.code, names)
        finally:
            os.chdir(home)
    return outputs


def _run(code: str, names: dict[str, Any]) -> str:
    """Run `code` among `names` as an interactive session would; returns what it shows."""
    lines = ast.parse(code)
    last = lines.body.pop() if lines.body and isinstance(lines.body[-1], ast.Expr) else None
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(lines, "query", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "query", "eval"), names)
            if value is not None:
                print(value)
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines()) + "\n"


def with_outputs(page: str, outputs: Mapping[str, str]) -> str:
    """The page with every output replaced."""

    def renewed(match: re.Match[str]) -> str:
        head, _, _ = match[0].rpartition("```text\n")
        return f"{head}```text\n{outputs[match['title']]}```"

    before, heading, after = page.partition("## Ten queries")
    return before + heading + _QUERY.sub(renewed, after)


def with_columns(page: str) -> str:
    """The page with the columns of every table as the schema has them."""
    for name, table in TABLES.items():
        rows = "\n".join(column_row(column) for column in table)
        before, heading, after = page.partition(f"\n## {name}\n")
        pattern = re.compile(r"(\| column \|.*?\n\|---.*?\n)(?:\|.*\n)*")
        page = before + heading + pattern.sub(lambda match, rows=rows: f"{match[1]}{rows}\n", after, count=1)
    return page


def column_row(column: pa.Field) -> str:
    """A column of a table as a row of the page."""
    text = {key.decode(): value.decode() for key, value in column.metadata.items()}
    kind = re.sub(r"(item|element): ", "", str(column.type))
    return f"| `{column.name}` | {kind} | {text['unit']} | {text['stage']} | {text['description']} |"


def add_copies(footage: Path) -> None:
    """Beside the first two episodes of a folder: a file with the same bytes, one with the same frames in another
    container, and one that ends in its middle.
    """
    first, second, *_ = sorted(footage.glob("episode_*.mp4"))
    shutil.copyfile(first, footage / "copy.mp4")
    content = second.read_bytes()
    (footage / "broken.mp4").write_bytes(content[: len(content) // 2])
    with av.open(str(second)) as source, av.open(str(footage / "remuxed.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=Path, metavar="FOOTAGE")
    parser.add_argument("--dataset", type=Path)
    asked = parser.parse_args()
    if asked.copies:
        add_copies(asked.copies)
        return
    page = with_columns(PAGE.read_text("utf-8"))
    if asked.dataset:
        page = with_outputs(page, run_queries(page, asked.dataset.resolve()))
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
