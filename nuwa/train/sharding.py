"""Weights of a stage whole in every worker, or shared out among them (FSDP2): the same training, the same checkpoints.

Sharded, each worker holds an equal part of every weight, of its gradient, of the optimiser's moments and of the
average; a block's weights are whole only while the block computes.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from nuwa.models.vae import TemporalVAE
from nuwa.train import workers
from nuwa.train.ema import Ema
from nuwa.train.shards import collected
from nuwa.train.stages import Stage

Sharding = Literal["none", "fsdp"]

_BLOCKS = ("down_blocks", "mid_block", "up_blocks")
"""What the parts of a network are called whose weights travel together."""


class StageWeights:
    """The weights of a stage, shared out as `sharding` says; build optimiser and average after it."""

    def __init__(self, stage: Stage, sharding: Sharding) -> None:
        self.stage = stage
        self._empty: nn.Module | None = None
        if sharding == "fsdp":
            self._empty = emptied(stage.module)
            shard(stage.module)

    def averaged(self, ema: Ema, *, to_compute: bool = True) -> AbstractContextManager[bool]:
        """In the first worker the stage's module holds the averaged weights within, whole and in eval mode.

        to_compute: the module can be called; else what was shared out stays in the memory of the CPU
        Gives whether this is that worker, which alone has them whole, once. All workers enter it.
        """
        # Frozen weights have no average: they are as they were.
        weights = {} if self._empty is None else collected(dict(self.stage.module.named_parameters()) | ema.average)
        if workers.number() > 0:
            return nullcontext(False)
        return self._swapped(ema) if self._empty is None else self._replaced(self._empty, weights, to_compute)

    @contextmanager
    def _swapped(self, ema: Ema) -> Iterator[bool]:
        module = self.stage.module
        was_training = module.training
        module.eval()
        ema.swap()
        try:
            yield True
        finally:
            ema.swap()
            module.train(was_training)

    @contextmanager
    def _replaced(self, empty: nn.Module, weights: Mapping[str, torch.Tensor], to_compute: bool) -> Iterator[bool]:
        """The stage has a whole module for a moment, whose weights are the given tensors themselves."""
        sharded, whole = self.stage.module, copy.deepcopy(empty)
        whole.load_state_dict(weights, strict=False, assign=True)  # its buffers were copied
        device = next(sharded.parameters()).device if to_compute else torch.device("cpu")
        self.stage.module = whole.to(device).eval()  # type: ignore[misc]  # all stages can
        try:
            yield True
        finally:
            self.stage.module = sharded  # type: ignore[misc]


def emptied(module: nn.Module) -> nn.Module:
    """A copy of `module` with weights of the same shapes, but without storage; once sharded it cannot be copied."""
    weights = {id(w): nn.Parameter(w.to("meta"), requires_grad=w.requires_grad) for w in module.parameters()}
    return copy.deepcopy(module, weights)


def shard(module: nn.Module) -> None:
    """Share out the weights of `module` among all workers, block by block. All workers call it.

    Gradients are summed in float32. Weights travel as float32 too and autocast rounds them where it does without
    sharding, so the result is the same; half the traffic for bfloat16 weights would not be.
    """
    # What it warns of, changing a block's output in place, would change the loss, and no block does it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    device = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (workers.count(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for root in _called(module):
        for block in _blocks_of(root):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(root, mesh=mesh, mp_policy=policy)
        for part in root.modules():
            if isinstance(part, FSDPModule):
                # One worker may have used a weight that the others have not.
                part.set_reduce_scatter_unused_params(True, recurse=False)
                part.set_force_sum_reduction_for_comms(device.type == "cpu")  # gloo has no mean


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """What a stage calls: an autoencoder by its parts, all others whole."""
    if not isinstance(module, AutoencoderKL | TemporalVAE):
        yield module
        return
    for part in module.children():
        if next(part.parameters(), None) is not None:
            yield part


def _blocks_of(root: nn.Module) -> Iterator[nn.Module]:
    """Blocks on the way down, in the middle and on the way up, where `root` has them."""
    for name in _BLOCKS:
        found = getattr(root, name, None)
        yield from found if isinstance(found, nn.ModuleList) else [found] if isinstance(found, nn.Module) else []
