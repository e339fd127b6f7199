"""Peak memory of the whole command by length: finished windows, mp4 encoder and record included.

Libraries and weights are most of a process and hide what grows, so what lies above them has a verdict of its own. They
are measured by giving the command of a finished video again: it loads everything and finds the video there.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.generation_kills import Kills, generate_command, write_story
from benchmarks.results import REPOSITORY, table, verdict

BAR = 1.15
OWN_BAR = 1.5
"""Ours: memory of its own that doubles while the video grows fifteenfold is a miss."""


@dataclass(frozen=True)
class Peaks:
    """Largest resident bytes of the command while it makes the video, and given again, when it only loads."""

    making: int
    loading: int


def measure(settings: Kills, lengths: Sequence[int], folder: Path, say: Callable[[str], None]) -> dict[int, Peaks]:
    """Both peaks for a video of each length, made below `folder`."""
    found = {}
    for frames in lengths:
        story, video = write_story(folder / f"{frames}.yaml", frames), folder / f"{frames}.mp4"
        command = generate_command(replace(settings, frames=frames), story, video)
        found[frames] = Peaks(peak_bytes(command), peak_bytes(command))
        say(f"{frames} frames: peak {found[frames].making / 2**20:.0f} MiB")
    return found


def peak_bytes(command: Sequence[str]) -> int:
    """Largest resident size of one process. Raises RuntimeError with the end of its log when it fails.

    Linux counts the size of the process that starts it, too: keep that one small.
    """
    with tempfile.TemporaryFile() as log:
        job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=log)
        _, status, used = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
        if job.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            raise RuntimeError(f"{list(command)} ended with {job.returncode}: {said[-600:]}")
    return used.ru_maxrss * 1024


def report(peaks: Mapping[int, Peaks]) -> list[str]:
    """Table, and the longest video over the shortest: of the process, and of what lies above the loaded model."""
    shortest, longest = min(peaks), max(peaks)
    loaded = peaks[shortest].loading
    own = {frames: peak.making - loaded for frames, peak in peaks.items()}
    growth = own[longest] / own[shortest] if own[shortest] > 0 else float("nan")
    rows = [
        [str(frames), *[f"{size / 2**20:.0f}" for size in (peak.making, peak.loading, own[frames])]]
        for frames, peak in peaks.items()
    ]
    head = ["frames", "peak MiB", "given again, MiB", "above the loaded model, MiB"]
    return [
        "The command itself in a process of its own: finished windows, mp4 and record included. Given again it loads "
        f"everything and finds the video made: its peak at {shortest} frames stands for libraries and weights.",
        "",
        *table(head, rows),
        "",
        f"- peak memory of {longest} over {shortest} frames: "
        f"{verdict(peaks[longest].making / peaks[shortest].making, BAR, at_most=True)}",
        f"- the same above the loaded model (the bar is ours): {verdict(growth, OWN_BAR, at_most=True)}",
    ]
