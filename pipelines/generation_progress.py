"""Progress of a long video: a bar on a terminal, a line now and then in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from nuwa.generate.long_video import Progress as Made

BETWEEN_LINES_S = 15.0
"""Seconds between two lines in a log."""


def line(made: "Made") -> str:
    """Windows or steps done, frames done, time left."""
    left = "" if made.seconds_left is None else f", {clock(made.seconds_left)} left"
    return f"{made.unit} {made.windows_done}/{made.windows}, frames {made.frames_done}/{made.frames}{left}"


def clock(seconds: float) -> str:
    """3 s, 2 min 5 s, 1 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[["Made"], None]]:
    """A function to call with every progress."""
    console = console or Console()
    if console.is_terminal:
        with Progress(TextColumn("{task.description}"), BarColumn(), console=console) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda made: bar.update(
                task,
                description=line(made),
                total=made.windows + made.frames,
                completed=made.windows_done + made.frames_done,
            )
        return
    yield _Lines(console).tell


class _Lines:
    """Prints a line if the last one is long ago; the last one of all always."""

    def __init__(self, console: Console) -> None:
        self.console, self.last_s = console, time.monotonic()

    def tell(self, made: "Made") -> None:
        now_s, complete = time.monotonic(), made.frames_done == made.frames
        if complete or now_s - self.last_s >= BETWEEN_LINES_S:
            self.last_s = now_s
            self.console.print(line(made), highlight=False, soft_wrap=True)
