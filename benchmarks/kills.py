"""One job run to its end while its processes are killed without warning; what a careful user would do is all it does:
give the same command again.
"""

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.processes import Process, descendants, end_all
from benchmarks.results import REPOSITORY

VICTIMS = {"driver": 0.35, "worker": 0.35, "decoder": 0.15, "raylet": 0.15}
"""How likely each kind of process is hit: the command, a Ray worker at an operator, a decoding child, the raylet."""
MARKS = {"worker": "ray::Map", "decoder": "multiprocessing.spawn", "raylet": "raylet/raylet"}
PROGRESS = re.compile(r"^\d+/\d+ ")
"""A line of the job about one finished unit."""
LARGEST_DELAY_S = 0.5


@dataclass
class Story:
    """What happened: kills as (units done before it, victim), starts of the command, stalls, and the time it took."""

    kills: list[tuple[int, str]] = field(default_factory=list)
    starts: int = 0
    stalls: int = 0
    left_over: int = 0
    """Processes that were still there some time after their driver had gone."""
    units: int = 0
    wall_s: float = 0.0
    last_words: str = ""


def curate_command(inputs: Path, output: Path, arguments: Sequence[str] = ()) -> list[str]:
    """The command of the job."""
    head = [sys.executable, "-m", "pipelines.curate", "--input", str(inputs), "--output", str(output)]
    return [*head, "--num-cpus", "2", *arguments]


def run_through(
    command: Sequence[str],
    log: Path,
    kills: Sequence[int] = (),
    seed: int = 0,
    most_starts: int = 40,
    patience_s: float = 300.0,
) -> Story:
    """Run `command` to exit status 0, killing a random process of it each time that many units are done.

    kills: numbers of finished units (lines of progress), ascending, at which the next victim falls, up to half a
    second later; where the job is done before that, it is run again and struck then. A command that says nothing for
    `patience_s` counts as stalled and is killed too. Raises RuntimeError when it
    refuses, or does not get through within `most_starts`.
    """
    story, chance, left = Story(), random.Random(seed), list(kills)
    began = time.monotonic()
    while story.starts < most_starts:
        story.starts += 1
        with log.open("a", encoding="utf-8") as file:
            code = _one_start(command, file, story, left, chance, patience_s)
        if code == 0 and not left:
            story.wall_s = time.monotonic() - began
            return story
        if code == 2:
            raise RuntimeError(f"the job refuses to go on: {story.last_words}; see {log}")
    raise RuntimeError(f"not finished after {most_starts} starts: {story.last_words}; see {log}")


def _one_start(
    command: Sequence[str], log: IO[str], story: Story, left: list[int], chance: random.Random, patience_s: float
) -> int:
    job = subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    heard = [time.monotonic()]
    reader = threading.Thread(target=_listen, args=(job.stderr, log, story, heard))
    reader.start()
    seen: set[Process] = set()
    strike_s: float | None = None
    while job.poll() is None:
        time.sleep(0.05)
        below = descendants(job.pid)
        seen.update(below)
        if left and strike_s is None and story.units >= left[0]:
            strike_s = time.monotonic() + chance.uniform(0.0, LARGEST_DELAY_S)
        if strike_s is not None and time.monotonic() >= strike_s:
            story.kills.append((story.units, _strike(job, below, chance)))
            left.pop(0)
            strike_s = None
        if time.monotonic() - heard[0] > patience_s:
            story.stalls += 1
            job.kill()
    reader.join(timeout=5.0)
    story.left_over += len(end_all(seen, 20.0))
    return job.returncode


def _strike(job: subprocess.Popen[str], below: Sequence[Process], chance: random.Random) -> str:
    """kill -9 of one process; the driver itself where none of the kind that was drawn is there."""
    kind = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
    found = sorted((p for p in below if kind in MARKS and MARKS[kind] in p.command), key=lambda process: process.pid)
    if not found:
        job.kill()
        return "driver"
    victim = chance.choice(found)
    name = victim.command.split("(")[0].strip()
    victim.kill()
    return f"{kind} {name}" if kind == "worker" else kind


def _listen(stream: IO[str] | None, log: IO[str], story: Story, heard: list[float]) -> None:
    """Copy the job's messages to the log, count units, keep the last line."""
    assert stream is not None
    for line in stream:
        heard[0] = time.monotonic()
        log.write(line)
        if line.strip():
            story.last_words = line.strip()[:300]
        story.units += bool(PROGRESS.match(line))
