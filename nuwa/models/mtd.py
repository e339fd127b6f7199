"""Mask Temporal Diffusion (NUWA-XL Sec. 3.2): a text-to-image U-Net that denoises all frames of a window together."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd_blocks import DownBlock, MidBlock, UpBlock
from nuwa.nn.embedding import ClipEmbedding
from nuwa.nn.frames import fold, unfold
from nuwa.nn.inflation import load_image_weights
from nuwa.nn.modulation import Cascade, Control

Injection = Literal["symmetric", "up_only", "single_scale"]
DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
MID_BLOCKS = ("UNetMidBlock2DCrossAttn",)
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")
# Options of UNet2DConditionModel that change its forward pass, with the one value that is supported here.
PLAIN = {
    "attention_type": "default",
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "resnet_time_scale_shift": "default",
    "center_input_sample": False,
    "downsample_padding": 1,
}


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise for a 2-D U-Net whose block types or options have no temporal counterpart here."""
    supported = {"down_block_types": DOWN_BLOCKS, "up_block_types": UP_BLOCKS, "mid_block_type": MID_BLOCKS}
    for option, known in supported.items():
        given = config[option] if option != "mid_block_type" else [config[option]]
        for block_type in given:
            if block_type not in known:
                raise NuwaError(f"{option} {block_type!r} cannot be inflated; use a U-Net of {', '.join(known)}")
    if not isinstance(config["cross_attention_dim"], int):
        raise NuwaError(f"cross_attention_dim {config['cross_attention_dim']!r}; one width for all blocks is needed")
    for option, value in PLAIN.items():
        if config.get(option, value) != value:
            raise NuwaError(f"a U-Net with {option}={config[option]!r} cannot be inflated; it has to be {value!r}")
    if config["in_channels"] != config["out_channels"]:
        raise NuwaError(
            f"a U-Net from {config['in_channels']} to {config['out_channels']} channels cannot be inflated; "
            "both numbers have to be those of a latent (condition and mask have a way of their own)"
        )


def build_image_unet(unet_config: Mapping[str, Any]) -> UNet2DConditionModel:
    """The image U-Net of a configuration, weights random. Raises NuwaError, in one line, for what is not supported."""
    defaults = inspect.signature(UNet2DConditionModel.__init__).parameters
    check_supported({name: known.default for name, known in defaults.items()} | dict(unet_config))
    try:
        return UNet2DConditionModel.from_config(dict(unet_config))
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        line = " ".join(str(error).split())
        raise NuwaError(f"diffusers makes no image U-Net of this configuration ({line}); correct it") from error


class MaskTemporalUNet(ModelMixin, ConfigMixin):
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

    `enable_gradient_checkpointing()` trades time for memory in training, with the same gradients.
    """

    _supports_gradient_checkpointing = True

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
        self.image_config = dict(unet.config)
        self._image_keys = frozenset(unet.state_dict())
        self.conv_in = unet.conv_in
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        down, up = injected_widths(injection, len(unet.down_blocks), (condition_channels, mask_channels))
        parts = zip(unet.down_blocks, down, strict=True)
        self.down_blocks = nn.ModuleList(DownBlock(block, widths, temporal_kernel) for block, widths in parts)
        self.mid_block = MidBlock(unet.mid_block, temporal_kernel)
        parts = zip(unet.up_blocks, up, strict=True)
        self.up_blocks = nn.ModuleList(UpBlock(block, widths, temporal_kernel) for block, widths in parts)
        self.conv_norm_out, self.conv_act, self.conv_out = unet.conv_norm_out, unet.conv_act, unet.conv_out
        self.clip_embedding = ClipEmbedding(unet.time_embedding.linear_2.out_features)
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
        if not isinstance(unet, UNet2DConditionModel):
            raise NuwaError(f"a {type(unet).__name__} cannot be inflated; give a UNet2DConditionModel")
        config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
        model = cls(config, condition_channels, mask_channels, temporal_kernel, injection)
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
        """Channels of a latent."""
        return int(self.image_config["in_channels"])

    @property
    def cross_attention_dim(self) -> int:
        """Width d of a prompt token."""
        return int(self.image_config["cross_attention_dim"])

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came from the image U-Net."""
        return (parameter for name, parameter in self.named_parameters() if name in self._image_keys)

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters: temporal layers, cascades, modulations, embedding of stride and clip numbers."""
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

        sample: (b c t h w), noised latents
        timestep: (b,) or one number, diffusion step
        encoder_hidden_states: (b t n d), one prompt per frame, or (b n d), one for the window
        condition: (b c t h w), latents of the window with unknown frames zeroed in pixel space; None without any
        mask: (b 1 t h w), 1 = given; None without any. Where a window's mask is all zero the condition is not read:
            that is the global model
        stride: (b,) or one number, frames of the finished video between neighbours, at least 1; 1 by default
        added_time_ids: (b, 3), fps, motion score, noise augmentation; NaN or None where not known
        """
        self._check(sample, encoder_hidden_states, condition, mask)
        num_frames = sample.shape[2]
        embedding = self._embed(sample, timestep, stride, added_time_ids)
        prompts = fold_prompts(encoder_hidden_states)  # (b t) n d, or b n d shared by the frames of a window
        controls = self._controls(sample, condition, mask)
        hidden = self.conv_in(fold(sample))
        skips = [hidden]
        for block, control in zip(self.down_blocks, controls, strict=True):
            hidden, block_skips = block(hidden, num_frames, embedding, prompts, control)
            skips += block_skips
        hidden = self.mid_block(hidden, num_frames, embedding, prompts)
        for block, control in zip(self.up_blocks, reversed(controls), strict=True):
            hidden = block(hidden, num_frames, embedding, prompts, control, skips)
        if self.conv_norm_out is not None:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        return unfold(self.conv_out(hidden), num_frames)

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

    def _check(
        self,
        sample: torch.Tensor,
        prompts: torch.Tensor,
        condition: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> None:
        """Raise NuwaError for shapes that do not fit together."""
        if sample.ndim != 5:
            raise NuwaError(f"sample of shape {tuple(sample.shape)}; give (windows, channels, frames, height, width)")
        batch, channels, num_frames, height, width = sample.shape
        if channels != self.in_channels:
            raise NuwaError(f"sample has {channels} channels; this network takes {self.in_channels}")
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


def per_window(name: str, numbers: torch.Tensor, batch: int) -> torch.Tensor:
    """One number for every window, (b,), from as many or from a single one. Raises NuwaError for another count."""
    if numbers.ndim > 1 or numbers.numel() not in (1, batch):
        raise NuwaError(f"{name} of shape {tuple(numbers.shape)}; give ({batch},), one for each window, or one number")
    return numbers.expand(batch)


def strides_of(stride: torch.Tensor | float | None, batch: int, device: torch.device) -> torch.Tensor:
    """Frames between neighbours for every window, (b,); 1 where nothing is said. NuwaError for less than 1.

    On a GPU they are taken as they are: to look at them would wait for all that is queued there.
    """
    if stride is None:
        return torch.ones(batch, device=device)
    stride = torch.as_tensor(stride)
    if stride.device.type == "cpu" and not ((stride >= 1) & stride.isfinite()).all():
        raise NuwaError(f"stride is {stride.tolist()}; frames lie 1 or more frames of the finished video apart")
    return per_window("stride", stride.to(device), batch)


def fold_prompts(prompts: torch.Tensor) -> torch.Tensor:
    """Prompts (b t n d) → ((b t) n d), each frame its own; (b n d) stay, for all frames of a window."""
    return rearrange(prompts, "b t n d -> (b t) n d") if prompts.ndim == 4 else prompts


def injected_widths(
    injection: Injection, num_blocks: int, widths: tuple[int, int]
) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
    """For every down block and every up block the widths of condition and mask that enter it, None where none does."""
    down = [widths if injection == "symmetric" else None for _ in range(num_blocks)]
    up = [widths if injection != "single_scale" or at == num_blocks - 1 else None for at in range(num_blocks)]
    return down, up
