"""CPU-seconds of the one decode pass beside its floor and beside the peers, on the same files in one run."""

import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import REPOSITORY, table, verdict
from curation import profiles
from curation.config_error import CurationError

OURS = {"decode only, PyAV, one thread": "decode", "one pass, profile svd": "svd", "one pass, profile demo": "demo"}
SUM = "sum"


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, the command without the video, what follows the video."""

    name: str
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    peer: bool = False


def rows(peers: Path | None) -> list[Row]:
    """All lines; without the peers when `peers`, the folder of their environments, is null."""
    ours = [Row(name, (sys.executable, "-m", "benchmarks.run_ours", what)) for name, what in OURS.items()]
    if peers is None:
        return ours
    juicer, to_dataset = (_python(peers, name) for name in ("data_juicer", "video2dataset"))
    script = ("-m", "benchmarks.peers.run_data_juicer")
    rates = [f"{rate:g}" for rate in further_rates_fps()]
    cuts = (to_dataset, "-m", "benchmarks.peers.run_video2dataset")
    return [
        *ours,
        Row(f"video2dataset, cuts at three rates (native, {', '.join(rates)} fps)", cuts, (",".join(rates),), True),
        Row("data-juicer, split by scene", (juicer, *script, "split"), (), True),
        Row("· of which finding the scenes", (juicer, *script, "detect"), (), True),
        Row("data-juicer, motion at 16 px", (juicer, *script, "motion"), (), True),
    ]


def further_rates_fps() -> list[float]:
    """The rates of profile svd's cascade besides the native one, which video2dataset always looks at."""
    return [detector.fps for detector in profiles.svd().scenes.detectors if detector.fps is not None]


def _python(peers: Path, name: str) -> str:
    program = peers / name / "bin" / "python"
    if not program.exists():
        raise CurationError(
            f"no environment of {name} at {peers}: make it with benchmarks/peers.sh {peers}, or give --no-peers"
        )
    return str(program)


def measure(clips: Mapping[str, Path], wanted: Sequence[Row], repeats: int) -> dict[tuple[str, str], float]:
    """(row, clip) → median CPU-seconds. Rows take turns, in the other order every second time; a peer's operator runs
    once per clip.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    for turn, (clip, path) in itertools.product(range(repeats), clips.items()):
        for row in wanted[:: -1 if turn % 2 else 1]:
            if turn and row.peer:
                continue
            answer = run(row, path)
            taken.setdefault((row.name, clip), []).append(float(str(answer["cpu_s"])))
            print(f"{clip} {row.name}: {answer}", file=sys.stderr, flush=True)
    return {key: statistics.median(values) for key, values in taken.items()}


def run(row: Row, path: Path) -> dict[str, object]:
    """The JSON line of one child process. Raises RuntimeError with the end of its log when it fails."""
    command = [*row.command, str(path.absolute()), *row.arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode:
        raise RuntimeError(f"{row.name} on {path.name}: exit {done.returncode}: {done.stderr.strip()[-600:]}")
    answer: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def report(clips: Sequence[str], wanted: Sequence[Row], cpu_s: Mapping[tuple[str, str], float]) -> list[str]:
    """Table of seconds, then the bars."""
    sums = {row.name: sum(cpu_s[row.name, clip] for clip in clips) for row in wanted}
    cells = [[row.name, *[f"{cpu_s[row.name, clip]:.2f}" for clip in clips], f"{sums[row.name]:.2f}"] for row in wanted]
    lines = ["CPU-seconds (user and system, children included; median):", ""]
    lines += table(["", *clips, SUM], cells)
    return [*lines, "", *bars(clips, [row.name for row in wanted], cpu_s, sums)]


def bars(
    clips: Sequence[str], names: Sequence[str], cpu_s: Mapping[tuple[str, str], float], sums: Mapping[str, float]
) -> list[str]:
    """The promises of the one pass, kept or missed, for both profiles."""
    floor, *passes = names[:3]
    cells = []
    for name in passes:
        row = [name, verdict(sums[name] / sums[floor], 2.0, at_most=True)]
        largest = "1080p"
        row.append(
            verdict(cpu_s[name, largest] / cpu_s[floor, largest], 1.6, at_most=True) if largest in clips else "—"
        )
        if len(names) > 3:
            _, _, _, cuts, split, detect, motion = names
            row.append(verdict(sums[cuts] / sums[name], 2.5, at_most=False))
            row.append(verdict((sums[split] + sums[motion]) / sums[name], 6.0, at_most=False))
            row.append(f"{(sums[detect] + sums[motion]) / sums[name]:.2f}")
        cells.append(row)
    head = ["", "× decode, sum", "× decode, 1080p"]
    if len(names) > 3:
        head += ["video2dataset ÷ ours", "data-juicer split + motion ÷ ours", "the same, pieces not written"]
    return table(head, cells)
