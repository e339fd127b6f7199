"""The learning rate over a training: linear rise, plateau, fall."""

import math
from typing import Literal


def lr_factor(
    step: int, steps: int, warmup: int, decay_frac: float, decay: Literal["linear", "cosine"] = "linear"
) -> float:
    """Part of the peak learning rate at `step`, counted from 0: linear rise, plateau, fall to 0.

    decay: `cosine` falls by (1 − cos(π·left)) / 2, where `left` is the part of the fall that is still to come (SGDR,
        Loshchilov and Hutter 2017, arXiv 1608.03983, Eq. 5, without restarts); with decay_frac 1 there is no plateau
    """
    rise = (step + 1) / max(1, warmup)
    left = min(1.0, (steps - step) / max(1.0, decay_frac * steps))
    fall = left if decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return max(0.0, min(1.0, rise, fall))
