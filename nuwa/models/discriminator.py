"""Patch discriminator of the autoencoder's adversarial loss (Isola et al. 2017, arXiv 1611.07004; hinge loss)."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from nuwa.hierarchy import NuwaError


class PatchDiscriminator(nn.Module):
    """One logit for every patch of a video: above 0 means real.

    Paper (NUWA-XL): "the image KLVAE's loss", network not stated; here: PatchGAN, and for windows its convolutions also
    see `temporal_kernel` frames, as in Video LDM (arXiv 2304.08818), so that flicker shows. Group instead of batch
    normalisation, over one video, because batches of windows are small.

    width: channels of the first convolution; layers: how often it halves height and width
    """

    def __init__(self, width: int = 64, layers: int = 3, temporal_kernel: int = 1) -> None:
        super().__init__()
        widths = [3, *[width * min(2**level, 8) for level in range(layers + 1)], 1]
        blocks: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if number < layers else 1
            conv = nn.Conv3d(
                before,
                after,
                (temporal_kernel, 4, 4),
                stride=(1, stride, stride),
                padding=(temporal_kernel // 2, 1, 1),
            )
            nn.init.normal_(conv.weight, std=0.02)
            blocks.append(conv)
            if 0 < number < len(widths) - 2:
                blocks.append(nn.GroupNorm(min(8, after), after))
            if number < len(widths) - 2:
                blocks.append(nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Logits (b 1 t h' w').

        video: (b 3 t h w) in [−1, 1]
        """
        logits: torch.Tensor = self.blocks(video)
        return logits.float()


def layers_for(height: int, width: int, most: int = 3) -> int:
    """How often frames of this size can be halved and still leave the 3 pixels that the last convolutions need.

    Raises NuwaError for frames that are too small for one.
    """
    layers = max((n for n in range(1, most + 1) if min(height, width) >> n >= 3), default=0)
    if layers == 0:
        raise NuwaError(
            f"frames of {width}x{height} px are too small for the discriminator (at least 6x6);"
            " set --adversarial-weight 0"
        )
    return layers


def hinge_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Loss of the discriminator: ½ E max(0, 1 − real) + ½ E max(0, 1 + fake) (Lim and Ye 2017, arXiv 1705.02894)."""
    return 0.5 * (functional.relu(1.0 - real).mean() + functional.relu(1.0 + fake).mean())


def adversarial_loss(fake: torch.Tensor) -> torch.Tensor:
    """Loss of what the discriminator judges: −E fake."""
    return -fake.mean()


def adaptive_weight(
    reconstruction: torch.Tensor, adversarial: torch.Tensor, last_layer: torch.Tensor, most: float = 1e4
) -> torch.Tensor:
    """λ = ‖∇ reconstruction‖ / (‖∇ adversarial‖ + 1e-4) at the last layer, at most `most` (VQGAN, 2012.09841, Eq. 7).

    Both terms then pull equally hard at the weights `last_layer`. Scalar without gradient.
    """
    wanted, other = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()
        for loss in (reconstruction, adversarial)
    )
    return (wanted / (other + 1e-4)).clamp(max=most).detach()
