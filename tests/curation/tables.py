"""Comparing two datasets: all columns but those that say when and how fast, whatever the order of the rows."""

from pathlib import Path

import pandas as pd

TIMINGS = ["cpu_s", "wall_s", "finished_at", "occurred_at"]
KEYS = {
    "videos": ["source_uri", "video_id"],
    "clips": ["clip_id"],
    "runs": ["run_id"],
    "errors": ["source_uri", "stage"],
}


def table(place: str | Path, name: str) -> pd.DataFrame:
    """One table in a fixed order, without timings."""
    frame = pd.read_parquet(f"{place}/{name}")
    frame = frame.drop(columns=[column for column in TIMINGS if column in frame])
    return frame.sort_values(KEYS[name]).reset_index(drop=True)


def assert_same_tables(one: str | Path, other: str | Path) -> None:
    """Bit for bit."""
    for name in KEYS:
        pd.testing.assert_frame_equal(table(one, name), table(other, name), check_exact=True)
