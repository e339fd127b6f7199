"""Exponential moving average of the weights, the weights a run saves."""

from collections.abc import Mapping

import torch
from torch import nn


class Ema:
    """Average of the trainable weights of `module`: after update n, avg ← d·avg + (1 − d)·weights.

    d = min(decay, (1 + n) / (10 + n)), so that a young average follows quickly (as in TensorFlow's
    ExponentialMovingAverage); `decay=0` copies the weights.
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
        torch._foreach_lerp_(list(self.average.values()), [w.detach() for w in self._live.values()], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights with the average; a second call takes it back."""
        for name, weight in self._live.items():
            kept = weight.detach().clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(kept)

    @torch.no_grad()
    def load(self, average: Mapping[str, torch.Tensor], num_updates: int) -> None:
        """Continue from a stored average."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
        self.num_updates = num_updates
