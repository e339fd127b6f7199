"""I3D, the network of FVD: Inception v1 inflated to three dimensions (Carreira and Zisserman 2017, arXiv 1705.07750).

Keys are those of the widespread port of DeepMind's Kinetics-400 RGB weights, a plain file of named tensors
(`rgb_imagenet.pt`), so that it loads as it is. FVD (arXiv 1812.01717) reads the 400 class logits, averaged over time.
"""

from pathlib import Path
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from nuwa.models.weights_file import fill, fingerprint, read_weights

SIZE_PX = 224
CLASSES = 400
SHORTEST = 9
"""Frames: three halvings must leave the two that the last average takes."""

Triple = tuple[int, int, int]

# Fig. 3: channels of 1×1×1; reduced and full 3×3×3; reduced and full second 3×3×3 (5×5 in 2-D); after the pooling.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _pad_same(video: torch.Tensor, kernel: Triple, stride: Triple) -> torch.Tensor:
    """TensorFlow's SAME: as many zeros as the kernel needs, the odd one behind."""
    padding: list[int] = []
    for size, width, step in zip(video.shape[2:], kernel, stride, strict=True):
        total = max(width - (step if size % step == 0 else size % step), 0)
        padding = [total // 2, total - total // 2, *padding]
    return functional.pad(video, padding)


class MaxPoolSame(nn.Module):
    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(n c t h w) → (n c ⌈t/s⌉ ⌈h/s⌉ ⌈w/s⌉); features are not negative, so zeros around them change no maximum."""
        return functional.max_pool3d(_pad_same(video, self.kernel, self.stride), self.kernel, self.stride)


class ConvUnit(nn.Module):
    """Convolution without bias, batch normalisation, rectifier."""

    def __init__(self, channels_in: int, channels: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01)
        self.kernel, self.stride = kernel, stride

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(n c t h w) → (n channels ⌈t/s⌉ ⌈h/s⌉ ⌈w/s⌉)."""
        return functional.relu(self.bn(self.conv3d(_pad_same(video, self.kernel, self.stride))))


class Mixed(nn.Module):
    """Four branches side by side (Fig. 3, right)."""

    def __init__(self, channels_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        plain, reduced, full, reduced_2, full_2, pooled = widths
        self.b0 = ConvUnit(channels_in, plain)
        self.b1a, self.b1b = ConvUnit(channels_in, reduced), ConvUnit(reduced, full, (3, 3, 3))
        self.b2a, self.b2b = ConvUnit(channels_in, reduced_2), ConvUnit(reduced_2, full_2, (3, 3, 3))
        self.b3a, self.b3b = MaxPoolSame((3, 3, 3), (1, 1, 1)), ConvUnit(channels_in, pooled)
        self.channels = plain + full + full_2 + pooled

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(n c t h w) → (n channels t h w)."""
        branches = (self.b0(video), self.b1b(self.b1a(video)), self.b2b(self.b2a(video)), self.b3b(self.b3a(video)))
        return torch.cat(branches, dim=1)


class Classifier(nn.Module):
    """A 1×1×1 convolution with bias, under the key that checkpoints have."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, classes, 1)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(n c t h w) → (n classes t h w)."""
        return self.conv3d(video)


class I3D(nn.Module):
    """Fig. 3 of the paper. `channels`: 3 for RGB, 2 for the paper's second stream of optical flow."""

    def __init__(self, classes: int = CLASSES, channels: int = 3) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(channels, 64, (7, 7, 7), (2, 2, 2))
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(64, 64)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        width = 192
        for name, widths in MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
            mixed = Mixed(width, widths)
            self.add_module(name, mixed)
            width = mixed.channels
        self.logits = Classifier(width, classes)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Class logits, averaged over time: (n classes).

        video: (n c t 224 224) in [−1, 1], t ≥ 9
        """
        hidden = video
        for name, module in self.named_children():
            if name != "logits":
                hidden = module(hidden)  # (n 1024 ⌈t/8⌉ 7 7)
        hidden = functional.avg_pool3d(hidden, (2, 7, 7), stride=1)  # (n 1024 ⌈t/8⌉−1 1 1)
        return self.logits(hidden).mean(dim=(2, 3, 4))


class I3DFeatures:
    """The video features of FVD, from weights given by path."""

    toy = False
    width = CLASSES
    shortest = SHORTEST

    def __init__(self, model: I3D, name: str) -> None:
        self.model, self.name = model.eval().requires_grad_(False), name

    @classmethod
    def from_file(cls, path: Path, device: torch.device | None = None) -> Self:
        """Weights of the Kinetics-400 RGB stream. NuwaError when the file is not that."""
        what = "I3D (Kinetics-400 RGB, keys Conv3d_1a_7x7.conv3d.weight … logits.conv3d.bias)"
        model = I3D()
        fill(model, read_weights(path, what), path, what, unused=())
        return cls(
            model.to(device or "cpu"),
            f"I3D logits, Kinetics-400 RGB, weights {path.name} (sha256 {fingerprint(path)[:12]})",
        )

    @torch.inference_mode()
    def __call__(self, videos: torch.Tensor) -> torch.Tensor:
        """(n 3 t h w) in [−1, 1] → (n 400); frames are scaled to 224×224, bilinear, as FVD's code does."""
        frames = videos.shape[2]
        device = next(self.model.parameters()).device
        size = (frames, SIZE_PX, SIZE_PX)
        scaled = functional.interpolate(videos.float().to(device), size, mode="trilinear", align_corners=False)
        return self.model(scaled).cpu()
