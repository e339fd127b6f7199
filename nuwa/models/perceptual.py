"""Perceptual distance of images, LPIPS (Zhang et al. 2018, arXiv 1801.03924): VGG16 features under linear heads."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from nuwa.hierarchy import NuwaError
from nuwa.models.weights_file import read_weights

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions of VGG16, resolution by resolution; features are taken at the end of each."""

LAYOUT = (
    "a .pth or .safetensors file, or a folder of them, with the convolutions of torchvision's VGG16"
    " (features.0.weight …) and the heads of LPIPS (lin0.model.1.weight … lin4.model.1.weight)"
)
_WHAT = "LPIPS (torchvision's VGG16 and five heads)"
SMALLEST_PX = 16
"""Side of the smallest image that survives four poolings."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_OF_LPIPS_PACKAGE = re.compile(r"^net\.slice\d\.")


class Lpips(nn.Module):
    """Distance between images as people see it; frozen, and 0 for equal images.

    Keys of the convolutions are those of torchvision's VGG16 (`features.0.weight`), so that its file loads as it is.

    widths: channels of the convolutions, resolution by resolution; smaller ones are for tests
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, widths: Sequence[Sequence[int]] = VGG16) -> None:
        super().__init__()
        self.features, self.ends = _vgg(widths)
        self.heads = nn.ParameterList(torch.zeros(1, group[-1], 1, 1) for group in widths)
        # Eq. of the "scaling layer", version 0.1: ImageNet's mean and deviation for images in [−1, 1].
        self.register_buffer("shift", rearrange(torch.tensor(_SHIFT), "c -> c 1 1"), persistent=False)
        self.register_buffer("scale", rearrange(torch.tensor(_SCALE), "c -> c 1 1"), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read weights from a file, or from all files of a folder together (VGG16 and heads often lie apart).

        Raises NuwaError, naming the file and the layout, when something is missing or of another shape.
        """
        state, model = _ours(_read(Path(path))), cls()
        own = model.state_dict()
        for name, weight in own.items():
            if name not in state:
                raise NuwaError(f"LPIPS weights {path}: {_theirs(name)} is missing; give {LAYOUT}")
            if state[name].shape != weight.shape:
                found, wanted = tuple(state[name].shape), tuple(weight.shape)
                raise NuwaError(f"LPIPS weights {path}: {_theirs(name)} has shape {found}, not {wanted}; give {LAYOUT}")
        model.load_state_dict({name: state[name] for name in own})
        return model.eval()

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Distance of each image from its target: (n,), ≥ 0 for heads that are (Eq. 1). Gradients reach `images` only.

        images, targets: (n 3 h w) in [−1, 1], at least 16 pixels in height and width
        """
        check_size(images.shape[-2], images.shape[-1])
        with torch.no_grad():
            wanted = self.activations(targets)
        layers = zip(self.activations(images), wanted, self.heads, strict=True)
        return torch.stack([layer_distance(a, b, head) for a, b, head in layers]).sum(dim=0)

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Features (n c h w) at the end of every resolution: relu1_2, 2_2, 3_3, 4_3, 5_3 in VGG16."""
        hidden, kept = (images - self.shift) / self.scale, []
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in self.ends:
                kept.append(hidden)
        return kept


def check_size(height: int, width: int) -> None:
    """Raise NuwaError for images that do not survive the poolings."""
    if min(height, width) < SMALLEST_PX:
        raise NuwaError(
            f"images of {width}x{height} px are too small for LPIPS;"
            f" give at least {SMALLEST_PX}x{SMALLEST_PX}, or leave --lpips-weights away"
        )


def layer_distance(features: torch.Tensor, wanted: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Eq. 1, one layer: squared difference of unit vectors, weighted per channel, averaged over pixels: (n,).

    Published code divides by norm + 1e-10, whose gradient is not a number where all features are 0; here: by the norm
    but at least 1e-10, which is the same number in single precision and has a gradient everywhere.

    features, wanted: (n c h w); head: (1 c 1 1)
    """
    features = functional.normalize(features.float(), dim=1, eps=1e-10)
    wanted = functional.normalize(wanted.float(), dim=1, eps=1e-10)
    return (head.float() * (features - wanted).square()).sum(dim=1).mean(dim=(1, 2))


def _vgg(widths: Sequence[Sequence[int]]) -> tuple[nn.Sequential, frozenset[int]]:
    """Convolutions, rectifiers and poolings numbered as in torchvision; numbers of the last layer of each group."""
    layers: list[nn.Module] = []
    ends, channels = [], 3
    for group in widths:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for width in group:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        ends.append(len(layers) - 1)
    return nn.Sequential(*layers), frozenset(ends)


def _ours(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys of torchvision's VGG16 and of the lpips package, as ours; heads `lin0.model.1.weight` → `heads.0`."""
    renamed = {_OF_LPIPS_PACKAGE.sub("features.", name): weight for name, weight in state.items()}
    heads = {f"heads.{n}": renamed.get(f"lin{n}.model.1.weight") for n in range(len(VGG16))}
    return renamed | {name: weight for name, weight in heads.items() if weight is not None}


def _theirs(name: str) -> str:
    """What a weight of ours is called in the files."""
    return f"lin{name.removeprefix('heads.')}.model.1.weight" if name.startswith("heads.") else name


def _read(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, or of the .pth and .safetensors files of a folder."""
    files = sorted(p for p in path.iterdir() if p.suffix in (".pth", ".safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise NuwaError(f"no LPIPS weights at {path}; give --lpips-weights {LAYOUT}, or leave it away")
    return {name: weight for file in files for name, weight in read_weights(file, _WHAT).items()}
