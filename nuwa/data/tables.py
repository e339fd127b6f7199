"""Tables of a dataset folder (Parquet) as rows, once they are known to have the columns and types that are read."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.types as kinds

from nuwa.hierarchy import NuwaError

Row = dict[str, object]


class DataError(NuwaError):
    """The dataset cannot be trained on as it is."""


def is_text(kind: pa.DataType) -> bool:
    """Strings, also as a dictionary."""
    plain = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_string(plain) or kinds.is_large_string(plain))


def is_number(kind: pa.DataType) -> bool:
    """Numbers of any kind."""
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def is_list(kind: pa.DataType, of: Callable[[pa.DataType], bool]) -> bool:
    """Lists of such values."""
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind)) and of(kind.value_type)


WANTED: Mapping[str, Callable[[pa.DataType], bool]] = {
    "text": is_text,
    "whole numbers": lambda kind: bool(kinds.is_integer(kind)),
    "numbers": is_number,
    "lists of text": lambda kind: is_list(kind, is_text),
    "lists of whole numbers": lambda kind: is_list(kind, lambda item: bool(kinds.is_integer(item))),
}
"""What a column may have to hold, in words, and the test for it."""


def open_table(folder: Path) -> ds.Dataset:
    """A table of a dataset folder, its rows not read yet. Raises DataError where there is none."""
    if not folder.is_dir() or not any(folder.glob("*.parquet")):
        raise DataError(f"{folder} holds no Parquet files; give a dataset folder made by pipelines.curate")
    try:
        return ds.dataset(str(folder), format="parquet")
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(folder, error) from error


def read_rows(
    folder: Path, filled: Mapping[str, str], nullable: Mapping[str, str], optional: Mapping[str, str]
) -> list[Row]:
    """Rows of a table with the columns asked for, each named with what it holds, a key of `WANTED`.

    filled: every row has a value; nullable: rows may lack one; optional: the whole column may be missing.
    Raises DataError, naming table and column, for a column that is missing, holds something else or lacks a value.
    """
    table = open_table(folder)
    known = {field.name: field.type for field in table.schema}
    asked = {**filled, **nullable, **{name: kind for name, kind in optional.items() if name in known}}
    for name, wanted in asked.items():
        _check_column(folder, name, known.get(name), wanted)
    try:
        rows: list[Row] = table.to_table(columns=list(asked)).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _unreadable(folder, error) from error
    for name in filled:
        empty = next((number for number, row in enumerate(rows) if row[name] is None), None)
        if empty is not None:
            raise DataError(f"{folder}: column {name} has no value in row {empty}; run pipelines.curate again")
    return rows


def _check_column(folder: Path, name: str, kind: pa.DataType | None, wanted: str) -> None:
    """Raise DataError for a column that is not there or holds something else; one of nulls only holds anything."""
    remedy = "give a dataset made by pipelines.curate (docs/dataset.md lists its columns)"
    if kind is None:
        raise DataError(f"{folder} has no column {name}, which holds {wanted}; {remedy}")
    if not kinds.is_null(kind) and not WANTED[wanted](kind):
        raise DataError(f"{folder}: column {name} holds {kind}, but {wanted} are needed; {remedy}")


def _unreadable(folder: Path, error: Exception) -> DataError:
    line = " ".join(str(error).split())
    return DataError(f"{folder} cannot be read ({line}); run pipelines.curate again on this dataset")
