"""The space-time U-Net (Lumiere Sec. 3.1): a frozen text-to-image U-Net inflated to make a whole clip in one pass."""

from collections.abc import Iterator
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import build_image_unet, fold_prompts, per_window, strides_of
from nuwa.models.stunet_blocks import DownBlock, MidBlock, UpBlock
from nuwa.nn.embedding import ClipEmbedding
from nuwa.nn.frames import fold, unfold
from nuwa.nn.inflation import load_image_weights
from nuwa.nn.resampling import frames_at

NUM_FRAMES = 80
FPS = 16.0
"""A clip of the paper: five seconds."""


class SpaceTimeUNet(ModelMixin, ConfigMixin):
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

    `enable_gradient_checkpointing()` trades time for memory in training, with the same gradients.
    """

    _supports_gradient_checkpointing = True

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
        self.image_config = dict(unet.config)
        self._image_keys = frozenset(unet.state_dict())
        self._take_over(unet, temporal_kernel)
        self.clip_embedding = ClipEmbedding(unet.time_embedding.linear_2.out_features)
        self.conv_in_known = further_channels(unet.conv_in, self._known_channels())
        for parameter in self.spatial_parameters():
            parameter.requires_grad_(False)

    def _take_over(self, unet: UNet2DConditionModel, kernel_size: int) -> None:
        """The modules of the image network under their old names, inflated."""
        groups, last = unet.config.norm_num_groups or 1, len(unet.down_blocks) - 1
        halves = [level < self.temporal_levels for level in range(last)] + [False]
        self.conv_in = unet.conv_in
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.down_blocks = nn.ModuleList(
            DownBlock(block, level == last, halves[level], groups, kernel_size)
            for level, block in enumerate(unet.down_blocks)
        )
        self.mid_block = MidBlock(unet.mid_block)
        self.up_blocks = nn.ModuleList(
            UpBlock(block, level == last, level > 0 and halves[level - 1], groups, kernel_size)
            for level, block in zip(range(last, -1, -1), unet.up_blocks, strict=True)
        )
        self.conv_norm_out, self.conv_act, self.conv_out = unet.conv_norm_out, unet.conv_act, unet.conv_out

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
        if not isinstance(unet, UNet2DConditionModel):
            raise NuwaError(f"a {type(unet).__name__} cannot be inflated; give a UNet2DConditionModel")
        config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
        model = cls(config, temporal_levels, temporal_kernel)
        model.load_image_state(unet.state_dict())
        return model if model.dtype == unet.dtype else model.to(unet.dtype)

    def load_image_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over the weights of a 2-D U-Net, key for key."""
        load_image_weights(self, self._image_keys, state, "image U-Net")

    def image_unet(self) -> UNet2DConditionModel:
        """The spatial weights as a 2-D U-Net of their own (a copy)."""
        unet = UNet2DConditionModel.from_config(self.image_config)
        state = self.state_dict()
        unet.load_state_dict({key: state[key] for key in self._image_keys})
        return unet if unet.dtype == self.dtype else unet.to(self.dtype)

    @property
    def in_channels(self) -> int:
        """Channels of a noised video."""
        return int(self.image_config["out_channels"])

    @property
    def cross_attention_dim(self) -> int:
        """Width d of a prompt token."""
        return int(self.image_config["cross_attention_dim"])

    @property
    def temporal_factor(self) -> int:
        """Frames of a clip per frame of the coarsest level."""
        return 2**self.temporal_levels

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came from the image U-Net; frozen."""
        return (parameter for name, parameter in self.named_parameters() if name in self._image_keys)

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters, those that train."""
        return (parameter for name, parameter in self.named_parameters() if name not in self._image_keys)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | float | None = None,
        added_time_ids: torch.Tensor | None = None,
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
        """
        self._check(sample, encoder_hidden_states, condition, mask)
        embedding = self._embed(sample, timestep, stride, added_time_ids)
        return self._denoise(self._input(sample, condition, mask), sample.shape[2], embedding, encoder_hidden_states)

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
            hidden = block(hidden, count, embedding, prompt, skips, finer_count)
        if self.conv_norm_out is not None:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        return unfold(self.conv_out(hidden), num_frames)

    def _input(self, sample: torch.Tensor, condition: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        """First convolution of ⟨noised video, masked video, mask⟩, ((b t) c h w) (Sec. 4.2)."""
        hidden = self.conv_in(fold(sample))
        if condition is None or mask is None or self.conv_in_known is None:
            return hidden
        # A clip of which nothing is given: black pixels encode to a constant, and that is not read at all.
        condition = condition * mask.amax(dim=(1, 2, 3, 4), keepdim=True).ne(0).to(condition.dtype)
        return hidden + self.conv_in_known(fold(torch.cat([condition, mask], dim=1)))

    def _embed(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        stride: torch.Tensor | float | None,
        added_time_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        """Embedding (b d) of diffusion step, stride and clip numbers."""
        batch, device = len(sample), sample.device
        steps = per_window("timestep", torch.as_tensor(timestep, device=device), batch)
        if added_time_ids is None:
            added_time_ids = torch.full((batch, self.clip_embedding.num_ids), torch.nan, device=device)
        embedding = self.time_embedding(self.time_proj(steps).to(sample.dtype))
        return embedding + self.clip_embedding(strides_of(stride, batch, device), added_time_ids)

    def _check(
        self,
        sample: torch.Tensor,
        prompts: torch.Tensor,
        condition: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> None:
        """Raise NuwaError for shapes that do not fit together."""
        if sample.ndim != 5 or sample.shape[1] != self.in_channels:
            raise NuwaError(f"sample of shape {tuple(sample.shape)}; give (b, {self.in_channels}, t, h, w)")
        batch, _, num_frames, height, width = sample.shape
        wanted = {3: (batch,), 4: (batch, num_frames)}.get(prompts.ndim)
        if wanted is None or prompts.shape[:-2] != wanted or prompts.shape[-1] != self.cross_attention_dim:
            raise NuwaError(
                f"encoder_hidden_states of shape {tuple(prompts.shape)}; give ({batch}, n, {self.cross_attention_dim})"
                f" or, per frame, ({batch}, {num_frames}, n, {self.cross_attention_dim})"
            )
        if (condition is None) != (mask is None):
            raise NuwaError("condition and mask belong together; give both or neither")
        if condition is not None and condition.shape != sample.shape:
            raise NuwaError(f"condition of shape {tuple(condition.shape)}; give that of sample, {tuple(sample.shape)}")
        if mask is not None and mask.shape != (batch, 1, num_frames, height, width):
            raise NuwaError(f"mask of shape {tuple(mask.shape)}; give {(batch, 1, num_frames, height, width)}")


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
