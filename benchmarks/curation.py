"""The bars of curation, measured: one decode pass beside its floor and the peers, Ray beside a plain loop, a finished
job run again, memory over an hour of film. Writes its sections of benchmarks/RESULTS.md.

python -m benchmarks.curation [--only one-pass|ray|memory] [--minutes 5] [--no-peers]
"""

import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import memory, one_pass, ray_overhead
from benchmarks.clips import CACHE, RECIPES, media_folder, real_clips
from benchmarks.results import RESULTS, write_section
from curation.config_error import CurationError
from pipelines import cli

Part = Literal["one-pass", "ray", "memory"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure curation and write the tables of benchmarks/RESULTS.md."""

    only: Part | None = None
    """One part; by default all of them. `ray` runs the finished job again, too."""
    clips: Path = CACHE / "clips"
    """Folder with 1080p.mp4, 480p.mp4 and 360p.mp4; made there from real media where they are missing."""
    media: Path | None = None
    """Folder of real media; by default $NUWA_MEDIA. Not needed when the clips are there."""
    peers: Path = CACHE / "peers"
    """Folder of the peers' environments (benchmarks/peers.sh)."""
    no_peers: bool = False
    """Leave the peers out."""
    repeats: int = 3
    """How often ours and decoding alone are measured; peers once."""
    minutes: float = 5.0
    """Length of the plain loop that the Ray pipeline is compared with."""
    results: Path = RESULTS
    """File whose sections are replaced."""


def main(config: Benchmark) -> None:
    """Measure the parts that are wanted, one after another."""
    command = shlex.join(["python", "-m", "benchmarks.curation", *sys.argv[1:]])
    parts = {"one-pass": measure_pass, "ray": measure_ray, "memory": measure_memory}
    wanted = [config.only] if config.only else list(parts)
    for part in wanted:
        title, lines = parts[part](config)
        write_section(part, title, command, lines, config.results)
        print("\n".join([title, *lines]))


def measure_pass(config: Benchmark) -> tuple[str, list[str]]:
    """CPU-seconds of one pass, decoding alone and the peers."""
    if config.repeats < 1:
        raise CurationError(f"repeats = {config.repeats} must be at least 1")
    wanted = one_pass.rows(None if config.no_peers else config.peers)
    clips = {name: config.clips / f"{name}.mp4" for name in RECIPES}
    if not all(path.is_file() for path in clips.values()):
        clips = real_clips(media_folder(config.media), config.clips)
    cpu_s = one_pass.measure(clips, wanted, config.repeats)
    return "One decode pass", one_pass.report(list(clips), wanted, cpu_s)


def measure_ray(config: Benchmark) -> tuple[str, list[str]]:
    """Ray's share of the time, and the finished job run again."""
    with tempfile.TemporaryDirectory(prefix="nuwa-bench-") as folder:
        return "Ray beside a plain loop", ray_overhead.report(Path(folder), CACHE / "films", config.minutes)


def measure_memory(config: Benchmark) -> tuple[str, list[str]]:
    """Peak memory of the decoding process."""
    return "Memory of a decoding worker", memory.report(memory.measure(CACHE / "films"))


if __name__ == "__main__":
    sys.exit(cli.run(main, Benchmark))
