"""Processes that one command has started, found through /proc (Linux): counted, named, killed without warning."""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 180.0
"""How long processes may take to end by themselves. Where Ray is killed, its agents try for a minute to tell its head,
which went with it."""


@dataclass(frozen=True)
class Process:
    """A process by its id and the clock tick it started at, so that an id given out again is not mistaken for it."""

    pid: int
    started: int

    @property
    def command(self) -> str:
        """Its command line, as Ray renames it; empty once it has ended."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""

    @property
    def alive(self) -> bool:
        """Still there, and not merely waiting to be collected by its parent."""
        found = _stat(self.pid)
        return found is not None and found[1] == self.started and found[2] != "Z"

    def kill(self) -> None:
        """kill -9; nothing happens when it has ended."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)


def descendants(pid: int) -> list[Process]:
    """All processes below `pid` at this moment, the eldest first."""
    parents: dict[int, list[int]] = {}
    started: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        found = _stat(int(entry.name)) if entry.name.isdigit() else None
        if found is not None:
            parents.setdefault(found[0], []).append(int(entry.name))
            started[int(entry.name)] = found[1]
    below, left = [], [pid]
    while left:
        children = parents.get(left.pop(0), [])
        below += [Process(child, started[child]) for child in children]
        left += children
    return below


def end_all(processes: Iterable[Process], patience_s: float = PATIENCE_S) -> list[str]:
    """Wait for processes to end by themselves, then kill the rest. Returns the commands of those that had to be."""
    deadline = time.monotonic() + patience_s
    left = [process for process in processes if process.alive]
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [process for process in left if process.alive]
    commands = [process.command for process in left]
    for process in left:
        process.kill()
    return commands


def _stat(pid: int) -> tuple[int, int, str] | None:
    """Parent, start tick and state; null once the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19]), fields[0]
