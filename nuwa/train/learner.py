"""Weights that learn, with their own optimiser: AdamW on gradients averaged over all workers and clipped."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from nuwa.train import workers
from nuwa.train.checkpoint import Checkpoint, load_optimizer, optimizer_tensors
from nuwa.train.config import TrainError
from nuwa.train.gradient_mean import GradientMean
from nuwa.train.shards import Tensors, is_part, local, part_like, whole


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
        self._loss, self._share = torch.zeros(()), 0.0
        # Sharded weights average their gradients themselves.
        self._mean = GradientMean(self.params) if workers.count() > 1 and not is_part(self.params[0]) else None

    def add(self, loss: torch.Tensor, share: float = 1.0) -> None:
        """Add the gradient of one part of the batch, which counts for `share` of it, to that of the next step.

        With the part that makes the shares 1, the gradients set out to be averaged over the workers.
        """
        self._share += share
        if self._mean is not None and self._share > 1.0 - 1e-6:
            self._mean.expect()
        (loss * share).backward()
        self._loss = self._loss + share * loss.detach()

    def take_step(self, lr: float) -> torch.Tensor:
        """One optimiser step down the gradient that was added; its norm before it is clipped. All workers call it.

        Raises NotFiniteError instead of a step that would make every weight NaN.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        loss, self._loss, self._share = workers.mean(self._loss), torch.zeros(()), 0.0
        if self._mean is not None:
            self._mean.finish()
        gradients = [weight.grad for weight in self.params if weight.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(self.params, self.clip_norm, norm)
        try:
            if not bool(norm.isfinite() & loss.isfinite()):
                raise NotFiniteError(f"loss {loss.item():g}, norm of the gradient {norm.item():g}")
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def check_weights(self) -> None:
        """Raise NotFiniteError when a weight is no number. All workers call it."""
        finite = torch.stack([local(weight.detach()).isfinite().all() for weight in self.params]).all()
        if workers.mean(finite.float()) < 1:
            raise NotFiniteError("weights after it")

    def weights(self) -> Tensors:
        """Weights by name."""
        return {name: weight.detach() for name, weight in zip(self.names, self.params, strict=True)}

    def moments(self) -> Tensors:
        """State of the optimiser by `moment/name`."""
        return optimizer_tensors(self.optimizer, self.names)

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Take back weights and state of the optimiser. Raises TrainError when they are those of another network."""
        live = dict(zip(self.names, self.params, strict=True))
        _check_fits(checkpoint, live)
        for name, weight in live.items():
            weight.copy_(part_like(checkpoint.weights[name], weight))
        own: Tensors = {}
        for key, tensor in checkpoint.optimizer.items():
            name = key.split("/", 1)[1]
            if name in live:  # counters are numbers, and no worker has a part of them
                own[key] = part_like(tensor, live[name]) if tensor.ndim else tensor
        load_optimizer(self.optimizer, self.names, own)


def _check_fits(checkpoint: Checkpoint, live: Mapping[str, torch.Tensor]) -> None:
    """Raise TrainError unless the checkpoint has every weight at its size."""
    for name, weight in live.items():
        stored = checkpoint.weights.get(name)
        if stored is None or stored.shape != weight.shape:
            found = "none" if stored is None else f"one of {tuple(stored.shape)}"
            raise TrainError(
                f"checkpoint of step {checkpoint.step} has {found} for weight {name} of {tuple(weight.shape)}: it is "
                "of another network; give the --init that the training was begun with, or another --output"
            )
