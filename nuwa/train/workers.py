"""The processes that share a training: how many, which one this is, and what all of them have to agree on.

A training in one process is the case of one worker; nothing is sent then.
"""

from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def count() -> int:
    """Workers that share this training."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def number() -> int:
    """Which of the workers this one is, from 0; the first one writes the run folder."""
    return distributed.get_rank() if count() > 1 else 0


def first_says(value: T) -> T:
    """`value` of the first worker, in all of them. All workers call it."""
    if count() == 1:
        return value
    said = [value]
    distributed.broadcast_object_list(said, src=0)
    return said[0]


def mean(numbers: torch.Tensor) -> torch.Tensor:
    """Mean of `numbers` over all workers; a worker's NaN is everybody's. All workers call it."""
    if count() == 1:
        return numbers
    total = numbers.detach().clone()
    distributed.all_reduce(total)
    return total / count()
