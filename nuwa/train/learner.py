"""Weights that learn, with their own optimiser: AdamW, gradients averaged over workers and clipped."""

from collections.abc import Iterable

import torch
from torch import nn

from nuwa.train.checkpoint import Checkpoint, Tensors, load_optimizer, optimizer_tensors
from nuwa.train.config import TrainError


class NotFiniteError(TrainError):
    """Loss or gradient of a step is no number; the weights are as they were before it."""


class Learner:
    """The weights of `module` that ask for a gradient, and the optimiser that changes them.

    faster: weights whose learning rate is `lr_factor` times that of the others
    prefix: put before the names of the weights in checkpoints, so that several learners share one
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        weight_decay: float,
        clip_norm: float,
        betas: tuple[float, float] = (0.9, 0.99),
        faster: Iterable[nn.Parameter] = (),
        lr_factor: float = 1.0,
        prefix: str = "",
    ) -> None:
        fast = {id(weight) for weight in faster}
        named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        named.sort(key=lambda each: id(each[1]) in fast)  # stable: the optimiser counts weights group by group
        self.names, self.params = [prefix + name for name, _ in named], [weight for _, weight in named]
        self.clip_norm = clip_norm
        slow = len(named) - sum(id(weight) in fast for weight in self.params)
        groups = [
            {"params": params, "lr_factor": factor}
            for params, factor in ((self.params[:slow], 1.0), (self.params[slow:], lr_factor))
            if params
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=weight_decay, fused=True)
        self._loss = torch.zeros(())

    def add(self, loss: torch.Tensor, share: float = 1.0) -> None:
        """Add the gradient of one part of the batch, which counts for `share` of it, to that of the next step."""
        (loss * share).backward()
        self._loss = self._loss + share * loss.detach()

    def take_step(self, lr: float) -> torch.Tensor:
        """One optimiser step down the gradient that was added; its norm before it is clipped.

        Raises NotFiniteError instead of a step that would make every weight NaN.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        loss, self._loss = self._loss, torch.zeros(())
        average_gradients(self.params)
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.clip_norm)
        try:
            if not bool(norm.isfinite() & loss.isfinite()):
                raise NotFiniteError(f"loss {loss.item():g}, norm of the gradient {norm.item():g}")
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def check_weights(self) -> None:
        """Raise NotFiniteError when a weight is no number."""
        if not bool(torch.stack([weight.isfinite().all() for weight in self.params]).all()):
            raise NotFiniteError("weights after it")

    def weights(self) -> Tensors:
        """Weights by name."""
        return {name: weight.detach() for name, weight in zip(self.names, self.params, strict=True)}

    def moments(self) -> Tensors:
        """State of the optimiser by `moment/name`."""
        return optimizer_tensors(self.optimizer, self.names)

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Take back weights and state of the optimiser."""
        for name, weight in zip(self.names, self.params, strict=True):
            weight.copy_(checkpoint.weights[name])
        known = set(self.names)
        own = {key: tensor for key, tensor in checkpoint.optimizer.items() if key.split("/", 1)[1] in known}
        load_optimizer(self.optimizer, self.names, own)


def average_gradients(weights: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes; nothing to do in one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    world = torch.distributed.get_world_size()
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        torch.distributed.all_reduce(weight.grad)
        weight.grad.div_(world)
