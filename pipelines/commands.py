"""Run other scripts as commands of their own, printed so that a person can repeat them by hand."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

Word = str | Path | float


def run(module: str, *words: Word) -> int:
    """Print `python -m module words`, run it, and return its exit status: 0, or 2 after its line on what to change.

    Any other status is an internal failure, whose traceback stands above: this process ends with status 1.
    """
    command = ["python", "-m", module, *map(str, words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    started = time.monotonic()
    status = subprocess.run([sys.executable, *command[1:]], check=False).returncode
    print(f"[{module}: {time.monotonic() - started:.0f} s]", flush=True)
    if status not in (0, 2):
        sys.exit(1)
    return status


def must_run(module: str, *words: Word) -> None:
    """Like `run`; where the command said what to change, that line stands and this process ends with status 2 too."""
    if run(module, *words):
        sys.exit(2)
