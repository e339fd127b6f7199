"""CPU-seconds of one call, its children's included. Standard library only: it runs in the peers' environments, too."""

import resource
import time
from collections.abc import Callable

_last: dict[str, object] = {}


def cpu_s() -> float:
    """User and system time so far of this process and of its children that have ended."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def call(function: Callable[[], object]) -> None:
    """Run `function` and keep its cost and result for `last`."""
    before, wall = cpu_s(), time.perf_counter()
    result = function()
    _last.update(cpu_s=cpu_s() - before, wall_s=time.perf_counter() - wall, found=result)


def last() -> dict[str, object]:
    """cpu_s, wall_s and found of the call."""
    return _last
