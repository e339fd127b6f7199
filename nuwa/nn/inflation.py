"""Inflation: a network of windows takes over the weights of the image network it was made from."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from nuwa.hierarchy import NuwaError


def load_image_weights(
    model: nn.Module, image_keys: Collection[str], state: Mapping[str, torch.Tensor], network: str
) -> None:
    """Copy `state` into the weights of `model` named `image_keys`, key for key; what is temporal stays as it is.

    Raises NuwaError where keys are missing or unknown; `network` is what it calls the image network.
    """
    missing, unexpected = set(image_keys) - state.keys(), state.keys() - set(image_keys)
    if missing or unexpected:
        raise NuwaError(
            f"weights are not those of this {network}: missing {sorted(missing)[:3]}, "
            f"unexpected {sorted(unexpected)[:3]}; give weights of the same configuration"
        )
    model.load_state_dict(dict(state), strict=False)
