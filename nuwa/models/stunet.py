"""The space-time U-Net (Lumiere Sec. 3.1): a frozen text-to-image U-Net inflated to make a whole clip in one pass."""

from typing import Any, Self

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401  a pipeline looks for ModelMixin beside its parts
from diffusers.configuration_utils import register_to_config
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.inflated_unet import InflatedUNet, build_image_unet, check_mixes, config_of, fold_prompts
from nuwa.models.joint_rows import denoise_apart
from nuwa.models.stunet_blocks import DownBlock, MidBlock, UpBlock
from nuwa.nn.frames import fold
from nuwa.nn.resampling import frames_at

NUM_FRAMES = 80
FPS = 16.0
"""A clip of the paper: five seconds."""


class SpaceTimeUNet(InflatedUNet):
    """A 2-D text-to-image U-Net inflated in space and time; its weights stay frozen, only new ones train.

    Spatial modules and their keys are those of `UNet2DConditionModel`. At first a static video is what the image
    network makes of its frame, and frames whose number the temporal factor divides are what it makes of them; equality
    for every video is impossible, because the coarser levels see fewer frames (App. B).

    The input is ⟨noised video, masked video, mask⟩ (Sec. 4.2): 7 channels of pixels, 2c + 1 of latents with c channels.
    Paper: how the image network's first convolution takes them is not stated; here: the further channels have weights
    of their own, `conv_in_known`, whose result is added. That is one convolution of all channels whose new weights are
    zero at first; the pretrained weight keeps its key and stays frozen.

    unet_config: configuration of the image U-Net
    temporal_levels: spatial resizings that are followed by a temporal one, finest first; None = all of them, as in the
        paper, 0 = none, to measure what they save
    temporal_kernel: frames a temporal convolution looks at. Paper: not stated; here 3
    """

    @register_to_config
    def __init__(
        self, unet_config: dict[str, Any], temporal_levels: int | None = None, temporal_kernel: int = 3
    ) -> None:
        super().__init__()
        unet = self._build(unet_config)
        resizings = len(unet.down_blocks) - 1
        self.temporal_levels = resizings if temporal_levels is None else temporal_levels
        if not 0 <= self.temporal_levels <= resizings:
            raise NuwaError(f"temporal_levels is {temporal_levels}; this U-Net resizes {resizings} times at most")
        self._inflate(unet, temporal_kernel)
        self.conv_in_known = further_channels(unet.conv_in, self._known_channels())
        for parameter in self.spatial_parameters():
            parameter.requires_grad_(False)

    def _inflate(self, unet: UNet2DConditionModel, kernel_size: int) -> None:
        """The modules of the image network, each layer with its inflation, each resizing with a temporal one."""
        groups, last = unet.config.norm_num_groups or 1, len(unet.down_blocks) - 1
        halves = [level < self.temporal_levels for level in range(last)] + [False]
        down_blocks: list[nn.Module] = [
            DownBlock(block, level == last, halves[level], groups, kernel_size)
            for level, block in enumerate(unet.down_blocks)
        ]
        mid_block = MidBlock(unet.mid_block)
        up_blocks: list[nn.Module] = [
            UpBlock(block, level == last, level > 0 and halves[level - 1], groups, kernel_size)
            for level, block in zip(range(last, -1, -1), unet.up_blocks, strict=True)
        ]
        self._take_over(unet, down_blocks, mid_block, up_blocks)

    def _build(self, unet_config: dict[str, Any]) -> UNet2DConditionModel:
        """The image network, weights random. Raises NuwaError for one that is not supported."""
        return build_image_unet(unet_config)

    def _known_channels(self) -> int:
        """Input channels that the image network does not have: masked video and mask."""
        return self.in_channels + 1

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, temporal_levels: int | None = None, temporal_kernel: int = 3
    ) -> Self:
        """The inflated network with the weights of `unet` copied and frozen. NuwaError if it is not supported."""
        return cls(config_of(unet), temporal_levels, temporal_kernel)._with_weights_of(unet)

    @property
    def temporal_factor(self) -> int:
        """Frames of a clip per frame of the coarsest level."""
        return 2**self.temporal_levels

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

        sample: (b c t h w), noised video, pixels or latents; any number of frames t. Where the temporal factor does not
            divide t, coarse frames at the end stand for fewer than `temporal_factor` frames; no frame is made up
        timestep: (b,) or a scalar, diffusion step
        encoder_hidden_states: (b t n d), one prompt per frame, or (b n d), one for the clip. Coarse levels read the
            prompts of the frames that they start from
        condition: (b c t h w), the video with unknown pixels zeroed; None without any
        mask: (b 1 t h w), 1 = given; None without any. Where a clip's mask is all zero the condition is not read
        stride: (b,) or one number, frames of the finished video between neighbours, at least 1; 1 by default
        added_time_ids: (b, 3), fps, motion score, noise augmentation; NaN or None where not known
        mixes_frames: (b,) bool; where False the frames of a row are images, each a clip of its own; None = True
        """
        self._check(sample, encoder_hidden_states, condition, mask)
        check_mixes(mixes_frames, len(sample))
        embedding = self._embed(sample, timestep, stride, added_time_ids)
        hidden, num_frames = self._input(sample, condition, mask), sample.shape[2]
        if mixes_frames is None:
            return self._denoise(hidden, num_frames, embedding, encoder_hidden_states)
        return denoise_apart(self._denoise, mixes_frames, hidden, num_frames, embedding, encoder_hidden_states)

    def _denoise(
        self, hidden: torch.Tensor, num_frames: int, embedding: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        """What comes after the first convolution: ((b t) c h w) → (b c t h w)."""
        factors = [2 ** min(level, self.temporal_levels) for level in range(len(self.down_blocks))]
        counts = [frames_at(num_frames, factor) for factor in factors]
        prompts = [prompts_at(encoder_hidden_states, factor) for factor in factors]
        skips = [hidden]
        for block, count, prompt in zip(self.down_blocks, counts, prompts, strict=True):
            hidden, block_skips = block(hidden, count, embedding, prompt)
            skips += block_skips
        hidden = self.mid_block(hidden, counts[-1], embedding, prompts[-1])
        finer = [counts[0], *counts[:-1]]
        coarse_first = zip(self.up_blocks, reversed(counts), reversed(prompts), reversed(finer), strict=True)
        for block, count, prompt, finer_count in coarse_first:
            assert isinstance(block, UpBlock), "made so"
            hidden = block(hidden, count, embedding, prompt, [*skips], finer_count)
            del skips[-len(block.resnets) :]
        return self._output(hidden, num_frames)

    def _input(self, sample: torch.Tensor, condition: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        """First convolution of ⟨noised video, masked video, mask⟩, ((b t) c h w) (Sec. 4.2)."""
        hidden = self.conv_in(fold(sample))
        if condition is None or mask is None or self.conv_in_known is None:
            return hidden
        # A clip of which nothing is given: black pixels encode to a constant, and that is not read at all.
        condition = condition * mask.amax(dim=(1, 2, 3, 4), keepdim=True).ne(0).to(condition.dtype)
        return hidden + self.conv_in_known(fold(torch.cat([condition, mask], dim=1)))


def prompts_at(prompts: torch.Tensor, factor: int) -> torch.Tensor:
    """Prompts (b t n d) at a level with one frame per `factor` frames, ((b ⌈t/factor⌉) n d); (b n d) stay.

    Frame k of the level starts from frame factor·k of the clip and reads the prompt of that frame.
    """
    return fold_prompts(prompts if prompts.ndim == 3 else prompts[:, ::factor])


def further_channels(conv_in: nn.Conv2d, channels: int) -> nn.Conv2d | None:
    """Weights of `channels` further input channels of a first convolution, zero at first; None for none."""
    if channels == 0:
        return None
    kernel_size = conv_in.kernel_size[0]  # the first convolution of diffusers' U-Net is square
    conv = nn.Conv2d(channels, conv_in.out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.zeros_(conv.weight)
    return conv
