"""Peak memory of the process that decodes: one minute of film against sixty."""

import sys
from pathlib import Path

from benchmarks.films import looped, toon_films
from benchmarks.one_pass import Row, run
from benchmarks.results import table

LENGTHS_MIN = (1, 60)


def measure(folder: Path, profile: str = "demo", size_px: int = 128) -> dict[int, dict[str, object]]:
    """Minutes of film → the JSON line of the decoding process. The same 30 s come again and again."""
    source = toon_films(folder, 1, duration_s=30.0, size_px=size_px)[0]
    row = Row(f"one pass, profile {profile}", (sys.executable, "-m", "benchmarks.run_ours", profile))
    return {minutes: run(row, _film(source, minutes)) for minutes in LENGTHS_MIN}


def _film(source: Path, minutes: int) -> Path:
    path = source.with_name(f"{source.stem}_{minutes}min.mp4")
    return path if path.is_file() else looped(source, 60.0 * minutes, path)


def report(folder: Path) -> list[str]:
    """Table and verdict."""
    taken = {profile: measure(folder, profile) for profile in ("demo", "svd")}
    cells = []
    for profile, answers in taken.items():
        peaks = [int(str(answers[minutes]["peak_bytes"])) for minutes in LENGTHS_MIN]
        change = peaks[1] / peaks[0] - 1
        growth = f"{change:+.1%} (± 10 %: {'holds' if abs(change) <= 0.1 else '**missed**'})"
        cells.append([profile, *[f"{peak / 2**20:.0f} MiB" for peak in peaks], growth])
    head = ["peak memory, profile", *[f"{minutes} min" for minutes in LENGTHS_MIN], "change"]
    return ["Toon footage of 128 px at 16 fps, packets repeated to the length.", "", *table(head, cells)]
