"""Inception v3, the network of FID, from weights given by path.

Two files are about, and they give different numbers. FID's own (`pt_inception-2015-12-05`, 1008 classes) was trained
in TensorFlow in 2015, and its poolings differ from those of torchvision's network (`inception_v3_google`, 1000
classes). Published FIDs use the first; the name of the features says which one was given.
"""

from pathlib import Path
from typing import Self

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import inception

from nuwa.hierarchy import NuwaError
from nuwa.models.weights_file import fill, fingerprint, read_weights

SIZE_PX = 299
WIDTH = 2048
FID_CLASSES, TORCHVISION_CLASSES = 1008, 1000
_UNUSED = ("AuxLogits.", "fc.")


def _average(features: torch.Tensor) -> torch.Tensor:
    """Mean of 3×3 neighbours inside the frame: TensorFlow does not count the padding."""
    return functional.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


class _FidA(inception.InceptionA):
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_average(x))]


class _FidC(inception.InceptionC):
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_average(x))]


class _FidE(inception.InceptionE):
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_average(x))]


class _FidLastE(inception.InceptionE):
    """The last block of FID's network pools by maximum, for no stated reason."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(functional.max_pool2d(x, 3, stride=1, padding=1))]


def torchvision_inception() -> nn.Module:
    """torchvision's network up to its last average, 2048 numbers; weights are not filled."""
    net = inception.inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
    net.AuxLogits, net.aux_logits, net.fc, net.dropout = None, False, nn.Identity(), nn.Identity()
    return net


def fid_inception() -> nn.Module:
    """FID's own network: the same layers and keys, other poolings."""
    net = torchvision_inception()
    net.Mixed_5b, net.Mixed_5c, net.Mixed_5d = _FidA(192, 32), _FidA(256, 64), _FidA(288, 64)
    net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e = (_FidC(768, width) for width in (128, 160, 160, 192))
    net.Mixed_7b, net.Mixed_7c = _FidE(1280), _FidLastE(2048)
    return net


class InceptionFeatures:
    """The 2048 numbers before Inception's classifier."""

    toy = False
    width = WIDTH

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model.eval().requires_grad_(False), name

    @classmethod
    def from_file(cls, path: Path, device: torch.device | None = None) -> Self:
        """FID's own weights or torchvision's, told apart by the number of classes. NuwaError for any other file."""
        what = "Inception v3 (torchvision's keys, Conv2d_1a_3x3.conv.weight … fc.bias)"
        state = read_weights(path, what)
        classes = len(state["fc.bias"]) if "fc.bias" in state else 0
        if classes not in (FID_CLASSES, TORCHVISION_CLASSES):
            raise NuwaError(f"{path}: {classes} classes in fc.bias, not 1008 (FID's own) or 1000; it is not {what}")
        fids = classes == FID_CLASSES
        model = fid_inception() if fids else torchvision_inception()
        fill(model, state, path, what, unused=_UNUSED)
        about = "FID's own Inception v3 (2015-12-05)" if fids else "torchvision's Inception v3, which is not FID's own"
        return cls(model.to(device or "cpu"), f"{about}, weights {path.name} (sha256 {fingerprint(path)[:12]})")

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n 3 h w) in [−1, 1] → (n 2048).

        Frames are scaled to 299×299, bilinear; smaller ones as FID's PyTorch code does, larger ones with a low-pass,
        which that code lacks (Parmar et al. 2022, arXiv 2104.11222).
        """
        device = next(self.model.parameters()).device
        size, larger = (SIZE_PX, SIZE_PX), max(images.shape[-2:]) > SIZE_PX
        scaled = functional.interpolate(
            images.float().to(device), size, mode="bilinear", align_corners=False, antialias=larger
        )
        return self.model(scaled).cpu()
