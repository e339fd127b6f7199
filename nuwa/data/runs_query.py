"""Which runs of a dataset a pandas query chooses, from what is known of each run and of its clips.

The query is an expression over one table with a row per run. Before pandas sees it, it is parsed and compared with what
such an expression may consist of, so that no query calls or reads anything but columns of that table.
"""

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.types as kinds

from nuwa.data.tables import DataError, is_list, is_text, open_table

METHODS = frozenset({"abs", "between", "isin", "isna", "notna"})
TEXT_METHODS = frozenset({"contains", "endswith", "startswith"})
_VALUES = (ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.keyword)
_LOGIC = (ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.BitAnd, ast.BitOr)
_SUMS = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.UAdd)
_COMPARISONS = (ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_PARTS = (*_VALUES, *_LOGIC, *_SUMS, *_COMPARISONS, ast.Call, ast.Attribute)
_FAILURES = (ValueError, TypeError, LookupError, AttributeError, NameError, SyntaxError, RuntimeError, ArithmeticError)
"""What pandas raises for an expression that it cannot compute."""


def runs_where(dataset: Path, where: str) -> set[str]:
    """The run_ids that `where` chooses.

    Raises DataError, with the columns there are, when it is no query, names another column or chooses nothing.
    """
    table = table_of_runs(dataset)
    columns = f"columns: {', '.join(sorted(table.columns))}"
    problem = _problem_of(where, set(table.columns))
    if problem is not None:
        raise DataError(f"where {where!r} {problem}; {columns}")
    try:
        chosen = table.eval(where.strip(), engine="python", parser="pandas")
    except (*_FAILURES, re.error) as error:
        line = " ".join(str(error).split())
        raise DataError(f"where {where!r} cannot be computed ({line}); {columns}") from error
    if not isinstance(chosen, pd.Series) or not pd.api.types.is_bool_dtype(chosen):
        raise DataError(
            f"where {where!r} is no yes or no for each run; compare a column, as in keep > 0.5 (of a yes-or-no column "
            f"of clips, a run has the share); {columns}"
        )
    found = set(table["run_id"][chosen.fillna(False)])
    if not found:
        raise DataError(f"where {where!r} keeps none of the {len(table)} runs; relax it; {columns}")
    return found


def _problem_of(where: str, columns: set[str]) -> str | None:
    """What is wrong with a query before anything is computed; None when nothing is."""
    try:
        tree = ast.parse(where.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is no pandas query ({' '.join(str(error).split())})"
    called = {call.func for call in ast.walk(tree) if isinstance(call, ast.Call)}
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and part.id not in columns:
            return f"names {part.id!r}, which is no column"
        if isinstance(part, ast.Call) and not _is_known(part.func):
            known = [*sorted(METHODS), *(f"str.{name}" for name in sorted(TEXT_METHODS))]
            return f"calls {ast.unparse(part.func)!r}; only {', '.join(known)} of a column may be called"
        if isinstance(part, ast.Attribute) and not _is_called(part, called):
            return f"reads {ast.unparse(part)!r}; only columns may be read"
        if isinstance(part, ast.Constant) and not isinstance(part.value, bool | int | float | str):
            return f"holds a {type(part.value).__name__}; compare with numbers and text"
        if not isinstance(part, _PARTS):
            return f"holds {type(part).__name__}, which a query over columns does not need"
    return None


def _is_known(function: ast.expr) -> bool:
    """COLUMN.METHOD or COLUMN.str.METHOD of the methods that may be called."""
    if not isinstance(function, ast.Attribute):
        return False
    owner, name = function.value, function.attr
    if isinstance(owner, ast.Attribute):
        return owner.attr == "str" and isinstance(owner.value, ast.Name) and name in TEXT_METHODS
    return isinstance(owner, ast.Name) and name in METHODS


def _is_called(part: ast.Attribute, called: set[ast.expr]) -> bool:
    """The name of a method that is called, or the `.str` before it."""
    return part in called or any(isinstance(function, ast.Attribute) and function.value is part for function in called)


def table_of_runs(dataset: Path) -> pd.DataFrame:
    """One row per run: its own columns, `num_clips`, and those of its clips under their names.

    Of a column of numbers the mean over the run's frames, clips without a value left out; of yes or no the share of the
    frames; of text (also of lists of it, such as `filter_reasons`) all that occurs, one per line. A column that both
    tables have is the run's.
    """
    runs, clips = _frame(dataset / "runs"), _frame(dataset / "clips")
    parts = _parts(runs)
    own = clips.drop(columns=[name for name in clips.columns if name in runs.columns])
    joined = parts.merge(own, on="clip_id", how="left", validate="many_to_one")
    told = {name: _told(joined, name) for name in own.columns}
    table = runs.drop(columns=["clip_ids", "first_frame_of_clip"]).set_index("run_id", drop=False)
    table["run_break_reasons"] = _lines(table["run_break_reasons"]) if "run_break_reasons" in table else ""
    counts = parts.groupby("run_id").size()
    return table.assign(num_clips=counts.reindex(table.index, fill_value=0), **told)


def _frame(folder: Path) -> pd.DataFrame:
    """The columns of a table that a query can compare, and those that say which clips a run has."""
    table = open_table(folder)
    names = [field.name for field in table.schema if _is_plain(field.type)]
    lists = [name for name in ("clip_ids", "first_frame_of_clip") if name in table.schema.names]
    return table.to_table(columns=list(dict.fromkeys([*names, *lists]))).to_pandas()


def _is_plain(kind: pa.DataType) -> bool:
    plain = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or is_text(kind)
    return bool(plain or is_list(kind, is_text))


def _parts(runs: pd.DataFrame) -> pd.DataFrame:
    """run_id, clip_id and the number of frames that a run shows of a clip."""
    parts = runs[["run_id", "num_frames", "clip_ids", "first_frame_of_clip"]]
    parts = parts.explode(["clip_ids", "first_frame_of_clip"], ignore_index=True).dropna(subset="clip_ids")
    end = parts.groupby("run_id")["first_frame_of_clip"].shift(-1).fillna(parts["num_frames"])
    frames = end.astype(np.int64) - parts["first_frame_of_clip"].astype(np.int64)
    return parts[["run_id"]].assign(clip_id=parts["clip_ids"], frames=frames)


def _told(joined: pd.DataFrame, name: str) -> pd.Series:
    """Mean, share or lines of a column of clips for every run."""
    column = joined[name]
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column.dropna().infer_objects()):
        values = column.astype(np.float64)
        weights = joined["frames"].where(values.notna(), 0)
        sums = pd.DataFrame({"value": values.fillna(0.0) * weights, "weight": weights}).groupby(joined["run_id"]).sum()
        return sums["value"] / sums["weight"].where(sums["weight"] > 0)
    return _lines(column.groupby(joined["run_id"]).agg(list))


def _lines(column: pd.Series) -> pd.Series:
    """Every different text in a cell, one per line; cells may be lists of text, or of lists of it."""
    return column.map(lambda cell: "\n".join(dict.fromkeys(_texts(cell))))


def _texts(cell: object) -> list[str]:
    if isinstance(cell, str):
        return [cell]
    if isinstance(cell, list | tuple | np.ndarray):
        return [text for part in cell for text in _texts(part)]
    return []
