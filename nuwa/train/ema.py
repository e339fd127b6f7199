"""Exponential moving average of the weights, the weights a run saves."""

from collections.abc import Mapping

import torch
from torch import nn

from nuwa.train.shards import local, part_like


class Ema:
    """Average of the trainable weights of `module`: after update n, avg ← d·avg + (1 − d)·weights.

    d = min(decay, (1 + n) / (10 + n)), so that a young average follows quickly (as in TensorFlow's
    ExponentialMovingAverage); `decay=0` copies the weights. Of sharded weights the average is sharded alike.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.num_updates = decay, 0
        self._live = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().clone() for name, weight in self._live.items()}

    def decay_at(self, num_updates: int) -> float:
        """Decay of update number `num_updates`, counted from 1."""
        return min(self.decay, (1 + num_updates) / (10 + num_updates))

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights into the average."""
        self.num_updates += 1
        weight = 1.0 - self.decay_at(self.num_updates)
        averages = [local(average) for average in self.average.values()]
        torch._foreach_lerp_(averages, [local(live.detach()) for live in self._live.values()], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights with the average; a second call takes it back."""
        for name, weight in self._live.items():
            live, average = local(weight.detach()), local(self.average[name])
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def load(self, average: Mapping[str, torch.Tensor], num_updates: int) -> None:
        """Continue from a stored average, whole tensors by name."""
        for name, tensor in self.average.items():
            tensor.copy_(part_like(average[name], tensor))
        self.num_updates = num_updates
