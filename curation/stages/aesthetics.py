"""Aesthetic score in LAION's form: a linear head on the L2-normalised CLIP image embedding (LAION-Aesthetics v1).

Heads in LAION's own .pth files are read too, the stack of linear layers of the improved predictor included; it has no
activation between its layers, so any such stack is folded into one linear map. Pickled files are read with
weights_only: tensors come out of them, code does not run.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from curation.config_error import CurationError
from curation.model_config import AestheticsConfig


class AestheticHeadError(CurationError):
    """The head's file is missing, unreadable, or made for embeddings of another width."""


class AestheticHead:
    """score = weight · embedding + bias, on the scale that `AestheticsConfig.scale` names."""

    def __init__(self, weight: np.ndarray, bias: float) -> None:
        self.weight = weight
        self.bias = bias

    @classmethod
    def load(cls, config: AestheticsConfig) -> "AestheticHead":
        """Read `config.head`: .safetensors with weight (1 d) and bias (1,), or a .pth of LAION's.

        Raises:
            AestheticHeadError: missing, damaged, no linear head, or not of the scale that `config.scale` names.
        """
        state = _read(config.head)
        weight, bias = fold(state, config.head)
        layers = sorted(
            (key for key in state if key.endswith("bias")), key=lambda key: _layer_order(key[: -len(".bias")])
        )
        _check_scale(config, [len(state[key]) for key in layers], len(weight))
        return cls(weight, bias)

    def check_width(self, width: int) -> None:
        """Raise AestheticHeadError unless the head is for embeddings of this width."""
        if width != self.weight.shape[0]:
            raise AestheticHeadError(
                f"the aesthetic head takes embeddings of width {self.weight.shape[0]}, the CLIP model gives "
                f"{width}: choose the head made for this model (aesthetics.head)"
            )

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """(n d) float32 unit vectors → (n,) float32 scores."""
        self.check_width(embeddings.shape[-1])
        return (embeddings.astype(np.float64) @ self.weight + self.bias).astype(np.float32)


def fold(state: Mapping[str, np.ndarray], source: Path) -> tuple[np.ndarray, float]:
    """Compose linear layers, in the order of their names, into one: weight (d,) and bias, float64.

    Paper: LAION v1 is one layer, 512→1 or 768→1; the improved predictor is 768→1024→128→64→16→1 with dropout only.
    """
    names = sorted({key.rpartition(".")[0] for key in state}, key=_layer_order)
    weight: np.ndarray | None = None
    bias = np.zeros(0)
    for name in names:
        prefix = f"{name}." if name else ""
        try:
            w, b = state[f"{prefix}weight"].astype(np.float64), state[f"{prefix}bias"].astype(np.float64)
            weight, bias = (w, b) if weight is None else (w @ weight, w @ bias + b)
        except (KeyError, ValueError) as error:
            raise AestheticHeadError(f"{source} is no stack of linear layers ({error}): choose another head") from error
    if weight is None or weight.ndim != 2 or weight.shape[0] != 1:
        found = None if weight is None else weight.shape
        raise AestheticHeadError(f"{source} maps to {found}, a head must map d values to one: choose another head")
    return weight[0], float(bias[0])


# Outputs of each layer, and the widths of the CLIP models the heads were trained on.
SCALES: dict[str, tuple[list[int], tuple[int, ...]]] = {
    "laion-v1": ([1], (512, 768)),
    "laion-improved": ([1024, 128, 64, 16, 1], (768,)),
}


def _check_scale(config: AestheticsConfig, layers: list[int], width: int) -> None:
    """A score must not be published under the name of another scale; v1 and a head of one's own look alike."""
    scales = [name for name, (sizes, widths) in SCALES.items() if sizes == layers and width in widths]
    if config.scale == "own" or config.scale in scales:
        return
    raise AestheticHeadError(
        f"{config.head} is no {config.scale} head (layers {layers} on embeddings of width {width}): set "
        f"aesthetics.scale to {' or '.join([*scales, 'own'])}"
    )


def _layer_order(name: str) -> tuple[int, str]:
    """`layers.10` comes after `layers.2`."""
    number = name.rpartition(".")[2]
    return (int(number) if number.isdigit() else -1, name)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise AestheticHeadError(f"aesthetic head {path} is missing: put it there, or choose another --profile")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {str(key): value.float().numpy() for key, value in state.items()}
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise AestheticHeadError(
            f"{path} is not a readable aesthetic head ({' '.join(str(error).split())[:200]}): restore the file"
        ) from error
