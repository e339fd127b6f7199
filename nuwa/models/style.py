"""Stylised generation (Lumiere Sec. 4.1): spatial weights between those of the base and those of a style."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.stunet import SpaceTimeUNet


def interpolated(
    original: Mapping[str, torch.Tensor], style: Mapping[str, torch.Tensor], amount: float
) -> dict[str, torch.Tensor]:
    """a·W_style + (1 − a)·W_orig for every weight, in the dtype and on the device of the original (Lumiere Sec. 4.1).

    amount: a, 0 = original, 1 = style, both bitwise. The paper picks it from 0.5 to 1 by the style.
    Raises NuwaError when the two are not weights of one architecture.
    """
    if not 0.0 <= amount <= 1.0:
        raise NuwaError(f"an amount of style of {amount} is outside 0 (original) to 1 (style)")
    _check_same_architecture(original, style)
    if amount in (0.0, 1.0):
        chosen = style if amount else original
        return {key: chosen[key].to(weight).clone() for key, weight in original.items()}
    return {key: amount * style[key].to(weight) + (1.0 - amount) * weight for key, weight in original.items()}


@contextmanager
def styled(
    model: SpaceTimeUNet | MaskTemporalUNet, style: UNet2DConditionModel, amount: float
) -> Iterator[SpaceTimeUNet | MaskTemporalUNet]:
    """The model with its spatial weights moved towards `style`; afterwards they are bitwise what they were.

    Temporal weights stay: they were trained on the original and, as the paper finds, carry over.
    """
    original = {key: weight.clone() for key, weight in model.image_unet().state_dict().items()}
    model.load_image_state(interpolated(original, style.state_dict(), amount))
    try:
        yield model
    finally:
        model.load_image_state(original)


def _check_same_architecture(original: Mapping[str, torch.Tensor], style: Mapping[str, torch.Tensor]) -> None:
    """Raise NuwaError naming the first weight that only one of them has, or that has another shape."""
    for key in sorted(original.keys() ^ style.keys()):
        owner = "the style" if key in style else "the model"
        raise NuwaError(f"the style is of another architecture: only {owner} has {key}; {_REMEDY}")
    for key, weight in original.items():
        if weight.shape != style[key].shape:
            raise NuwaError(
                f"the style is of another architecture: {key} is {tuple(style[key].shape)}, "
                f"in the model {tuple(weight.shape)}; {_REMEDY}"
            )


_REMEDY = "give a checkpoint fine-tuned from the same image U-Net"
