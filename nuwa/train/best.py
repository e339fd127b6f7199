"""Which checkpoint is the best: the one before which the loss was lowest.

The steps of the noise come evenly (draws.py), so means over equally many windows compare. What is made says more than
the loss, but has to be looked at: samples.py shows it.
"""

import math
from collections.abc import Mapping

import torch

from nuwa.train.progress import Means


class Best:
    """The mean loss between checkpoints, `checkpoint_every` steps apart, and the lowest one so far."""

    def __init__(self, checkpoint_every: int) -> None:
        self.least_steps = (checkpoint_every + 1) // 2
        self.lowest, self.last = math.inf, math.nan
        self._means, self._count = Means(), 0

    def add(self, loss: torch.Tensor) -> None:
        """Take in the loss of one step."""
        self._means.add({"loss": loss})
        self._count += 1

    def read(self) -> bool:
        """Whether the mean since the last reading, over all workers, is the lowest. All workers call it.

        A mean over less than half as many steps as others is not judged: it would win by chance.
        """
        count, means = self._count, self._means.read()
        self.last, self._count = means.get("loss", math.nan), 0
        if count < self.least_steps or not self.last < self.lowest:
            return False
        self.lowest = self.last
        return True

    def numbers(self) -> dict[str, float]:
        """What a checkpoint has to remember."""
        return {name: value for name, value in (("loss", self.last), ("lowest_loss", self.lowest)) if value < math.inf}

    def load(self, numbers: Mapping[str, float]) -> None:
        """Go on from the numbers of a checkpoint; older ones have none."""
        self.lowest = numbers.get("lowest_loss", math.inf)
