"""Mask Temporal Diffusion (NUWA-XL Sec. 3.2): a text-to-image U-Net that denoises all frames of a window together."""

from typing import Any, Literal, Self, get_args

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401  a pipeline looks for ModelMixin beside its parts
from diffusers.configuration_utils import register_to_config
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.inflated_unet import InflatedUNet, build_image_unet, check_mixes, config_of, fold_prompts
from nuwa.models.mtd_blocks import DownBlock, MidBlock, UpBlock
from nuwa.nn.frames import fold
from nuwa.nn.modulation import Cascade, Control

Injection = Literal["symmetric", "up_only", "single_scale"]


class MaskTemporalUNet(InflatedUNet):
    """A 2-D text-to-image U-Net inflated to windows of frames, told what is given by a condition and a mask.

    Spatial modules and their keys are those of `UNet2DConditionModel`. New ones are temporal convolutions and
    attentions, which are the identity at first (Eq. 1 and 2), the cascades and modulations of condition and mask, and
    the embedding of stride and clip numbers, which are zero at first: the new network is the image network, frame by
    frame. Normalisation never mixes frames.

    unet_config: configuration of the image U-Net
    condition_channels, mask_channels: width of the two cascades. Paper: not stated
    temporal_kernel: frames a temporal convolution looks at. Paper: not stated; here 3
    injection: where condition and mask enter, the variants of the paper's ablation: `symmetric`, every down and up
        block; `up_only`, every up block; `single_scale`, one resolution. Paper: which resolution, and whether on the
        way down too, is not stated; here: the last up block, at the resolution of the latents, because the ablation
        adds first the other scales and then the way down
    """

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        condition_channels: int = 32,
        mask_channels: int = 8,
        temporal_kernel: int = 3,
        injection: Injection = "symmetric",
    ) -> None:
        super().__init__()
        if injection not in get_args(Injection):
            raise NuwaError(f"injection {injection!r} is unknown; use one of {', '.join(get_args(Injection))}")
        unet = build_image_unet(unet_config)
        down, up = injected_widths(injection, len(unet.down_blocks), (condition_channels, mask_channels))
        # In the order of the image network, which is also the order of their random weights.
        down_parts = zip(unet.down_blocks, down, strict=True)
        down_blocks: list[nn.Module] = [DownBlock(block, widths, temporal_kernel) for block, widths in down_parts]
        mid_block = MidBlock(unet.mid_block, temporal_kernel)
        up_parts = zip(unet.up_blocks, up, strict=True)
        up_blocks: list[nn.Module] = [UpBlock(block, widths, temporal_kernel) for block, widths in up_parts]
        self._take_over(unet, down_blocks, mid_block, up_blocks)
        scales = len(unet.down_blocks) if injection != "single_scale" else 1
        self.condition_cascade = Cascade(unet.config.in_channels, condition_channels, scales)
        self.mask_cascade = Cascade(1, mask_channels, scales)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        condition_channels: int = 32,
        mask_channels: int = 8,
        temporal_kernel: int = 3,
        injection: Injection = "symmetric",
    ) -> Self:
        """The network of windows that equals `unet` frame by frame; weights are copied. NuwaError if not supported."""
        model = cls(config_of(unet), condition_channels, mask_channels, temporal_kernel, injection)
        return model._with_weights_of(unet)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | float | None = None,
        added_time_ids: torch.Tensor | None = None,
        mixes_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict noise (or v, as trained) for all frames, (b c t h w).

        sample: (b c t h w), noised latents
        timestep: (b,) or one number, diffusion step
        encoder_hidden_states: (b t n d), one prompt per frame, or (b n d), one for the window
        condition: (b c t h w), latents of the window with unknown frames zeroed in pixel space; None without any
        mask: (b 1 t h w), 1 = given; None without any. Where a window's mask is all zero the condition is not read:
            that is the global model
        stride: (b,) or one number, frames of the finished video between neighbours, at least 1; 1 by default
        added_time_ids: (b, 3), fps, motion score, noise augmentation; NaN or None where not known
        mixes_frames: (b,) bool; where False the frames of a row are images that know nothing of each other, each seen
            as a video of one frame (joint training on images and videos, Ho et al. 2022, arXiv 2204.03458, Sec. 3);
            None = True everywhere
        """
        self._check(sample, encoder_hidden_states, condition, mask)
        check_mixes(mixes_frames, len(sample))
        num_frames = sample.shape[2]
        embedding = self._embed(sample, timestep, stride, added_time_ids)
        prompts = fold_prompts(encoder_hidden_states)  # (b t) n d, or b n d shared by the frames of a window
        controls = self._controls(sample, condition, mask)
        hidden = self.conv_in(fold(sample))
        skips = [hidden]
        for block, control in zip(self.down_blocks, controls, strict=True):
            hidden, block_skips = block(hidden, num_frames, embedding, prompts, control, mixes_frames)
            skips += block_skips
        hidden = self.mid_block(hidden, num_frames, embedding, prompts, mixes_frames)
        for block, control in zip(self.up_blocks, reversed(controls), strict=True):
            assert isinstance(block, UpBlock), "made so"
            hidden = block(hidden, num_frames, embedding, prompts, control, [*skips], mixes_frames)
            del skips[-len(block.resnets) :]
        return self._output(hidden, num_frames)

    def _controls(
        self, sample: torch.Tensor, condition: torch.Tensor | None, mask: torch.Tensor | None
    ) -> list[Control | None]:
        """Features of condition and mask at every resolution, finest first; None where the cascades do not reach."""
        if mask is None or condition is None:
            mask, condition = torch.zeros_like(sample[:, :1]), torch.zeros_like(sample)
        # Paper: the global model's condition encodes a black clip, a constant; here: it is not read at all.
        condition = condition * mask.amax(dim=(1, 2, 3, 4), keepdim=True).ne(0).to(condition.dtype)
        maps = zip(self.condition_cascade(fold(condition)), self.mask_cascade(fold(mask)), strict=True)
        controls = [Control(condition_map, mask_map) for condition_map, mask_map in maps]
        return [*controls, *[None] * (len(self.down_blocks) - len(controls))]


def injected_widths(
    injection: Injection, num_blocks: int, widths: tuple[int, int]
) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
    """For every down block and every up block the widths of condition and mask that enter it, None where none does."""
    down = [widths if injection == "symmetric" else None for _ in range(num_blocks)]
    up = [widths if injection != "single_scale" or at == num_blocks - 1 else None for at in range(num_blocks)]
    return down, up
