"""Peak memory of a worker over one minute of film and over sixty: the process that decodes, and the one around it."""

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.films import looped, toon_films
from benchmarks.one_pass import Row, run
from benchmarks.results import table

LENGTHS_MIN = (1, 60)
FILM_S = 30.0
ROW = Row("a worker", (sys.executable, "-m", "benchmarks.run_ours", "worker"))


def measure(folder: Path) -> dict[int, dict[str, int]]:
    """Minutes of film → peak bytes by process. The same half minute comes again and again."""
    source = toon_films(folder / "half_minute", 1, FILM_S)[0]
    return {minutes: _peaks(run(ROW, _film(source, minutes))) for minutes in LENGTHS_MIN}


def _film(source: Path, minutes: int) -> Path:
    path = source.with_name(f"{source.stem}_{minutes}min.mp4")
    return path if path.is_file() else looped(source, 60.0 * minutes, path)


def _peaks(answer: dict[str, object]) -> dict[str, int]:
    found = answer["found"]
    assert isinstance(found, dict)
    decoder, around = int(found["decoder_peak_bytes"]), int(str(answer["peak_bytes"]))
    return {"decoding child": decoder, "Ray worker around it": around, "clips": int(found["clips"])}


def report(peaks: Mapping[int, Mapping[str, int]]) -> list[str]:
    """Table and verdict."""
    short, long = (peaks[minutes] for minutes in LENGTHS_MIN)
    cells = []
    for name in list(short)[:2]:
        change = long[name] / short[name] - 1
        verdict = f"{change:+.1%} (± 10 %: {'holds' if abs(change) <= 0.1 else '**missed**'})"
        cells.append([name, *[f"{peak[name] / 2**20:.0f} MiB" for peak in (short, long)], verdict])
    head = ["peak memory, profile demo", *[f"{n} min, {peaks[n]['clips']} clips" for n in LENGTHS_MIN], "change"]
    return ["Toon footage of 128 px at 16 fps, packets repeated to the length.", "", *table(head, cells)]
