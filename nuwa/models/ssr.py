"""Spatial super-resolution of video (Lumiere Sec. 3.2): an image super-resolution U-Net inflated to short windows."""

from typing import Any, Self

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401  a pipeline looks for ModelMixin beside its parts
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

from nuwa.hierarchy import NuwaError
from nuwa.models.inflated_unet import build_image_unet
from nuwa.models.stunet import SpaceTimeUNet
from nuwa.nn.frames import fold, unfold

CHANNELS = 4
"""Of a `UNet2DConditionModel` whose configuration does not say."""


class SuperResolutionUNet(SpaceTimeUNet):
    """An inflated U-Net that denoises a window of large frames, told the small ones by channel concatenation.

    `condition` of the denoiser's call is the low-resolution video enlarged to the size of `sample`, noised by
    `augmented`; the level of that noise, 0 to 1, is the third of `added_time_ids` (cascaded diffusion models, Ho et
    al. 2021, arXiv 2106.15282). The mask is for nothing: every pixel is made.

    Paper: the inflation of this network is not stated in detail; here: that of the base network, by default without
    temporal resampling, because windows are short: at first it is the image network, frame by frame.

    unet_config: of a U-Net whose input is the noised image (as many channels as its output; the weights for the low
        resolution are then new and zero at first), or the noised image and the enlarged one (twice as many)
    """

    @register_to_config
    def __init__(self, unet_config: dict[str, Any], temporal_levels: int | None = 0, temporal_kernel: int = 3) -> None:
        super().__init__(unet_config, temporal_levels, temporal_kernel)

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, temporal_levels: int | None = 0, temporal_kernel: int = 3) -> Self:
        """The inflated network with the weights of `unet` copied and frozen. NuwaError if it is not supported."""
        return super().from_unet(unet, temporal_levels, temporal_kernel)

    def _build(self, unet_config: dict[str, Any]) -> UNet2DConditionModel:
        given, made = (unet_config.get(f"{end}_channels", CHANNELS) for end in ("in", "out"))
        if given not in (made, 2 * made):
            raise NuwaError(
                f"a U-Net from {given} to {made} channels cannot be inflated for super-resolution; its input "
                f"must be the noised image ({made} channels), or that and the enlarged one ({2 * made})"
            )
        unet = build_image_unet({**unet_config, "in_channels": made})
        if given != made:
            first = unet.conv_in
            unet.conv_in = nn.Conv2d(given, first.out_channels, first.kernel_size, padding=first.padding)
            unet.register_to_config(in_channels=given)
        return unet

    def _known_channels(self) -> int:
        """Of the enlarged video, where the image network does not take it already."""
        return self.in_channels if self.image_config["in_channels"] == self.in_channels else 0

    def _input(self, sample: torch.Tensor, condition: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        """First convolution of ⟨noised video, enlarged video⟩, ((b t) c h w)."""
        if condition is None or mask is not None:
            raise NuwaError("super-resolution needs the enlarged video as condition, and no mask")
        if self.conv_in_known is None:
            return self.conv_in(fold(torch.cat([sample, condition], dim=1)))
        return self.conv_in(fold(sample)) + self.conv_in_known(fold(condition))

    def _check(
        self,
        sample: torch.Tensor,
        prompts: torch.Tensor,
        condition: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> None:
        if condition is None or mask is not None:
            raise NuwaError("super-resolution needs the enlarged video as condition, and no mask")
        super()._check(sample, prompts, condition, torch.zeros_like(condition[:, :1]))


def enlarged(video: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Every frame of a video (b c t h w) bilinearly enlarged to `height` × `width`; no frame sees another."""
    frames = functional.interpolate(fold(video), (height, width), mode="bilinear", align_corners=False)
    return unfold(frames, video.shape[2])


def augmented(condition: torch.Tensor, level: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise augmentation √(1 − s²)·condition + s·eps (variance preserving, Ho et al. 2021).

    condition, eps: (b c t h w); level: (b,), s from 0 (none) to 1 (nothing is left of the condition)
    """
    if ((level < 0) | (level > 1)).any():
        raise NuwaError(f"noise augmentation {level.tolist()} is outside 0 to 1; 0 is none")
    level = level.to(condition)[:, None, None, None, None]
    return (1.0 - level.square()).sqrt() * condition + level * eps
