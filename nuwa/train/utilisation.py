"""Model FLOPs utilisation: what training computes over what the device could (PaLM, arXiv 2204.02311, App. B)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

PEAKS: Mapping[str, float] = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense multiplications and additions per second of the tensor cores, bf16 (fp16 where there is no bf16), by what the
vendor's data sheet calls the card. More particular names come first."""


def peak_flop_s(device: torch.device) -> float | None:
    """Peak of a known GPU, FLOP/s; None for others, and for a CPU.

    What a CPU could do is on no data sheet: it changes with clock, threads and neighbours. To measure it would take the
    cores from the training, so there the share is left out; samples per second tell of speed.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in PEAKS.items() if re.search(rf"\b{card}\b", name)), None)


class StepFlops(TorchDispatchMode):
    """Counts the floating-point operations of a training step: twice the multiplications of matrices, convolutions and
    attention, forward and backward.

    What runs without gradients (frozen networks) is not counted, nor is what is computed again in the backward pass
    (activation checkpointing): the paper's definition.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and add what it costs."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        backward = torch._C._current_graph_task_id() != -1
        if formula is not None and torch.is_grad_enabled() != backward:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Utilisation:
    """Share of the peak of `device` that the steps of this process reach, counted on the first step that it sees."""

    def __init__(self, device: torch.device) -> None:
        self.peak, self.flops = peak_flop_s(device), 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what runs within, once and where a peak is known; a compiled network then runs as it was written."""
        if self.peak is None or self.flops:
            yield
            return
        with torch.compiler.set_stance("force_eager"), StepFlops() as counter:
            yield
        self.flops = counter.total

    def scalars(self, steps_per_s: float) -> dict[str, float]:
        """`mfu`, in [0, 1], and TFLOP/s at this speed; nothing where no peak is known."""
        if self.peak is None:
            return {}
        return {"mfu": self.flops * steps_per_s / self.peak, "tflop_per_s": self.flops * steps_per_s / 1e12}
