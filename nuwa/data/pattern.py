"""The levels that the draws of a training take in turn, from the share that each level shall have."""

import math
from collections.abc import Sequence
from fractions import Fraction

from nuwa.data.tables import DataError

MAX_TURNS = 1000
"""Longest pattern: shares that need a longer one, such as 0.3333 beside 0.6667, are rounded by the user, not here."""


def level_pattern(shares: Sequence[float], image_frac: float = 0.0) -> tuple[int, ...]:
    """Levels in turn, each exactly as often as its share says in every period, and evenly spread within.

    shares: one per level, above 0, in any unit: (1, 2) and (0.25, 0.5) are the same. Equal ones give (0, 1, …, n−1)
    image_frac: share of the draws that are rows of images, 0 to below 1; they are level n, and only there if above 0
    Raises DataError when the shares are so crooked that their period has more than `MAX_TURNS` draws.
    """
    parts = [Fraction(str(float(share))) for share in shares]  # 0.1 means a tenth, not its neighbour in binary
    of_images = Fraction(str(float(image_frac)))
    exact = [part / sum(parts) * (1 - of_images) for part in parts] + [of_images] * (image_frac > 0)
    turns = math.lcm(*(share.denominator for share in exact))
    if turns > MAX_TURNS:
        raise DataError(
            f"level_shares {' '.join(f'{share:g}' for share in shares)} with image_frac {image_frac:g} repeat after "
            f"{turns} draws; give rounder numbers, so that {MAX_TURNS} are enough"
        )
    return _spread([int(share * turns) for share in exact])


def _spread(counts: Sequence[int]) -> tuple[int, ...]:
    """Each level `counts[level]` times; the next one is always the one that lags most behind its share."""
    turns, pattern = sum(counts), list[int]()
    for turn in range(1, turns + 1):
        behind = [count * turn - turns * pattern.count(level) for level, count in enumerate(counts)]
        pattern.append(behind.index(max(behind)))
    return tuple(pattern)
