"""Tensors of which every worker holds a part, beside those that it holds whole: taken apart and put together."""

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from nuwa.train import workers

Tensors = dict[str, torch.Tensor]


def is_part(tensor: torch.Tensor) -> bool:
    """True of a tensor of which this worker holds a part."""
    return isinstance(tensor, DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's part of a sharded tensor, sharing its memory; any other tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor. For a sharded one all workers call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Of a whole `tensor`, which all workers have, what this worker holds of `like`."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def collected(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Whole tensors by name; sharded ones come to the memory of the first worker, and to no other.

    All workers call it, for the same names in the same order.
    """
    found: Tensors = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if workers.number() == 0:
            found[name] = complete.cpu() if isinstance(tensor, DTensor) else complete
    return found
