"""CRAFT's true architecture with weights that find bright rectangles: random, but for the last layer, which is fitted.

The real craft_mlt_25k.pth cannot ship; these weights have its keys and shapes, and go the same way through EasyOCR.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from easyocr.craft import CRAFT
from easyocr.imgproc import normalizeMeanVariance
from torch import Tensor, nn

SIDE_PX = 160


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """(160 160 3) uint8: yellow on dark blue."""
    image = np.full((SIDE_PX, SIDE_PX, 3), (20, 20, 70), np.uint8)
    image[y0:y1, x0:x1] = (250, 240, 30)
    return image


def save(path: Path) -> None:
    """Write the weights in the form of EasyOCR's file, `module.` before every key."""
    torch.save({f"module.{name}": value for name, value in _fitted().state_dict().items()}, path)


@functools.cache
def _fitted() -> CRAFT:
    torch.manual_seed(0)
    net = CRAFT(pretrained=False).eval()
    _fit(net)
    return net


@torch.no_grad()
def _fit(net: CRAFT) -> None:
    """Least squares from the 16 features before the last layer to where the rectangles are."""
    rng = np.random.default_rng(0)
    features, wanted = [], []
    for _ in range(4):
        x0, y0 = rng.integers(16, 80, 2)
        x1, y1 = x0 + rng.integers(30, 64), y0 + rng.integers(24, 48)
        features.append(_features(net, rectangle(x0, y0, x1, y1)))
        mask = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        mask[y0:y1, x0:x1] = 1
        wanted.append(torch.from_numpy(mask[::2, ::2].copy()).flatten())
    x, y = torch.cat(features).double(), torch.cat(wanted).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(x, y[:, None], driver="gelsd").solution[:, 0].float()
    last: nn.Conv2d = net.conv_cls[-1]
    last.weight.zero_()
    last.bias.zero_()
    last.weight[0, :, 0, 0], last.bias[0] = solution[:-1], solution[-1]


def _features(net: CRAFT, image: np.ndarray) -> Tensor:
    """(pixels at half size, 16)."""
    kept: list[Tensor] = []
    hook = net.conv_cls[-1].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    net(torch.from_numpy(normalizeMeanVariance(image)).permute(2, 0, 1)[None].float())
    hook.remove()
    return kept[0][0].flatten(1).T
