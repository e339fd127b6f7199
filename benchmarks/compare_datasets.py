"""Two datasets of the same job, row by row: what was lost, doubled, or is otherwise in one of them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from curation.dataset import open_dataset

KEYS = {
    "videos": ["source_uri", "video_id"],
    "clips": ["clip_id"],
    "runs": ["run_id"],
    "errors": ["source_uri", "clip_id", "stage"],
}
WHEN = ("cpu_s", "wall_s", "finished_at", "occurred_at")
"""Columns that say when and how long: different in every run."""
TRIES = ("attempts", "attempt")
"""Columns that count a decoder's deaths, of which the kills are some."""


def differences(expected: Path, actual: Path) -> list[str]:
    """One line per table, row or value that differs, order of rows and the columns WHEN and TRIES aside."""
    return [line for table in KEYS for line in _table_differences(table, _rows(expected, table), _rows(actual, table))]


def lost_and_doubled(inputs: Sequence[str], dataset: Path) -> tuple[list[str], list[str]]:
    """Inputs without a row in videos, or a clip id missing for an input's count; inputs or clips with two rows."""
    videos, clips = (getattr(open_dataset(dataset), table) for table in ("videos", "clips"))
    current = videos[videos["status"] != "superseded"]
    rows = Counter(current["source_uri"])
    lost = [uri for uri in inputs if rows[uri] == 0]
    counted = Counter(clips["video_id"])
    ok = current[current["status"] == "ok"]
    lost += [f"clips of {v.source_uri}" for v in ok.itertuples() if counted[v.video_id] < v.num_clips]
    doubled = [uri for uri, count in rows.items() if count > 1]
    doubled += [clip for clip, count in Counter(clips["clip_id"]).items() if count > 1]
    return lost, doubled


def wrong_captions(expected: Path, actual: Path) -> list[str]:
    """Ids of clips, in both datasets, whose captions are not the same in both."""
    columns = ["caption", "caption_coca", "caption_video", "caption_llm"]
    pairs = [open_dataset(path).clips.set_index("clip_id")[columns].astype(object) for path in (expected, actual)]
    both = pairs[0].index.intersection(pairs[1].index)
    ours, theirs = (pair.loc[both].fillna("").to_numpy() for pair in pairs)
    return list(both[(ours != theirs).any(axis=1)])


def _rows(dataset: Path, table: str) -> pd.DataFrame:
    return getattr(open_dataset(dataset), table)


def _table_differences(table: str, expected: pd.DataFrame, actual: pd.DataFrame) -> list[str]:
    columns = [column for column in expected.columns if column not in (*WHEN, *TRIES)]
    if set(expected.columns) != set(actual.columns):
        return [f"{table}: other columns: {sorted(set(expected.columns) ^ set(actual.columns))}"]
    left, right = (_by_key(frame[columns], KEYS[table]) for frame in (expected, actual))
    lines = [f"{table}: {key} is not in the second" for key in sorted((left - right).elements())]
    return lines + [f"{table}: {key} is not in the first" for key in sorted((right - left).elements())]


def _by_key(frame: pd.DataFrame, key: Sequence[str]) -> "Counter[str]":
    """Rows as text that begins with their key, counted."""
    return Counter(
        json.dumps([[row[name] for name in key], row], default=_plain, sort_keys=True)
        for row in frame.to_dict("records")
    )


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
