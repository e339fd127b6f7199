"""Numbers that a user gives, told apart from what only looks like one."""

import math
from numbers import Integral, Real


def is_whole(value: object, least: int | None = 1) -> bool:
    """True for an integer of at least `least` (None = any); False for anything else, also for 2.0, "2" and True."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return least is None or int(value) >= least


def is_number(value: object) -> bool:
    """True for a finite real number; False for anything else, also for "2" and True."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: object) -> bool:
    """True for a number from 0 to 1."""
    return isinstance(value, int | float) and is_number(value) and 0 <= value <= 1
