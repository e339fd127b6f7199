"""Gradients averaged over all workers, on their way while the backward pass still goes on."""

from collections.abc import Sequence

import torch
from torch import distributed, nn

from nuwa.train import workers

BUCKET_BYTES = 25 * 2**20


class GradientMean:
    """Means of the gradients of `weights` over all workers (Li et al. 2020, arXiv 2006.15704, Sec. 3.2).

    Weights are dealt into buckets from the last to the first, about as their gradients arise. A bucket leaves when its
    gradients are there and the buckets before it have left, so that all workers send the same in the same order. It is
    summed in the type of the weights, float32, whatever the precision of the forward pass.
    """

    def __init__(self, weights: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.weights = list(weights)
        self._buckets = deal(self.weights[::-1], bucket_bytes)
        self._bucket_of: dict[torch.Tensor, int] = {
            weight: number for number, bucket in enumerate(self._buckets) for weight in bucket
        }
        self._missing: list[int] = []
        self._sent: list[tuple[torch.Tensor, distributed.Work]] = []
        for weight in self.weights:
            weight.register_post_accumulate_grad_hook(self._arrived)

    def expect(self) -> None:
        """The next backward pass completes the gradients: buckets may leave during it."""
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Replace the gradients by their means. All workers call it, after the last backward pass of a step.

        A weight that no worker has used keeps no gradient, as it would in one process; one that some have not used has
        theirs as zero.
        """
        used = torch.tensor([weight.grad is not None for weight in self.weights], dtype=torch.float32)
        for number in range(len(self._sent), len(self._buckets)):
            self._send(number)
        used = workers.mean(used.to(self.weights[0].device))
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            parts = (flat / workers.count()).split([weight.numel() for weight in bucket])
            means = [part.view_as(weight) for part, weight in zip(parts, bucket, strict=True)]
            torch._foreach_copy_([_gradient(weight) for weight in bucket], means)
        self._missing, self._sent = [], []
        for weight, by_any in zip(self.weights, used.tolist(), strict=True):
            if by_any == 0:
                weight.grad = None

    def _arrived(self, weight: torch.Tensor) -> None:
        """Called once the gradient of `weight` is complete."""
        if not self._missing:
            return
        self._missing[self._bucket_of[weight]] -= 1
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send(len(self._sent))

    def _send(self, number: int) -> None:
        flat = torch.cat([_gradient(weight).flatten() for weight in self._buckets[number]])
        work = distributed.all_reduce(flat, async_op=True)
        assert work is not None  # as it is for those outside the group
        self._sent.append((flat, work))


def _gradient(weight: nn.Parameter) -> torch.Tensor:
    """The gradient of a weight; zero where this worker has not used it."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def deal(weights: Sequence[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """`weights` in their order in buckets of at most `bucket_bytes`, or of one weight that is larger."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for weight in weights:
        if weight.nbytes > room or not buckets:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(weight)
        room -= weight.nbytes
    return buckets
