"""Weights of a feature network from a file given by path: named tensors only, never code."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nuwa.hierarchy import NuwaError


def read_weights(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Named tensors of a .safetensors file, or of a .pt or .pth file, read with weights_only.

    what: the network as an error names it. Raises NuwaError for files that are missing, damaged or hold code; a
    TorchScript file (the i3d_torchscript.pt of several FVD programs) holds code.
    """
    if not path.is_file():
        raise NuwaError(f"no weights of {what} at {path}; give the path of a .safetensors, .pt or .pth file")
    if zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        raise NuwaError(f"{path}: it is TorchScript, which is code, and is not run; give the state_dict of {what}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NuwaError(
            f"{path} cannot be read as weights of {what} ({reason[:120]}); give a file of named tensors: "
            "pickled models hold code, which is not run"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise NuwaError(f"{path} holds something other than named tensors; give the state_dict of {what}")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def fill(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path, what: str, unused: tuple[str, ...]) -> None:
    """Load `state` into `model`, key for key; keys that begin with one of `unused` are left out.

    Raises NuwaError that names the first key that is missing, not expected, or of another shape.
    """
    own = model.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith(unused)}
    # Old checkpoints have no count of batches: it is no weight and nothing reads it.
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    extra = [name for name in given if name not in own]
    shapes = [name for name in own if name in given and own[name].shape != given[name].shape]
    for names, wrong in ((missing, "is missing"), (shapes, "has another shape"), (extra, "is not expected")):
        if names:
            raise NuwaError(f"{path}: {names[0]} {wrong}, with {len(names) - 1} more; it holds no weights of {what}")
    model.load_state_dict({name: given.get(name, own[name]) for name in own})
    if not all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point()):
        raise NuwaError(f"{path} holds weights that are not finite; copy the file anew")


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, to tell weights apart."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
