"""What all networks inflated from a text-to-image U-Net share: which are supported, their weights, their inputs."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from einops import rearrange
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.nn.embedding import ClipEmbedding
from nuwa.nn.frames import unfold
from nuwa.nn.inflation import load_image_weights

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


def config_of(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The configuration that an inflated network stores of its image U-Net. NuwaError for another network."""
    if not isinstance(unet, UNet2DConditionModel):
        raise NuwaError(f"a {type(unet).__name__} cannot be inflated; give a UNet2DConditionModel")
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


class InflatedUNet(ModelMixin, ConfigMixin):
    """A 2-D text-to-image U-Net whose blocks were inflated; spatial modules have the keys of `UNet2DConditionModel`.

    `enable_gradient_checkpointing()` trades time for memory in training, with the same gradients.
    """

    _supports_gradient_checkpointing = True

    image_config: dict[str, Any]
    conv_in: nn.Conv2d
    down_blocks: nn.ModuleList
    up_blocks: nn.ModuleList
    clip_embedding: ClipEmbedding

    def _take_over(
        self, unet: UNet2DConditionModel, down_blocks: list[nn.Module], mid_block: nn.Module, up_blocks: list[nn.Module]
    ) -> None:
        """The modules of the image network under their old names, with inflated blocks for its own."""
        self.image_config = dict(unet.config)
        self._image_keys = frozenset(unet.state_dict())
        self.conv_in = unet.conv_in
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.down_blocks, self.mid_block = nn.ModuleList(down_blocks), mid_block
        self.up_blocks = nn.ModuleList(up_blocks)
        self.conv_norm_out, self.conv_act, self.conv_out = unet.conv_norm_out, unet.conv_act, unet.conv_out
        self.clip_embedding = ClipEmbedding(unet.time_embedding.linear_2.out_features)

    def _with_weights_of(self, unet: UNet2DConditionModel) -> Self:
        """This network, just made, with the weights of `unet` copied and in its precision."""
        self.load_image_state(unet.state_dict())
        return self if self.dtype == unet.dtype else self.to(unet.dtype)

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
        """Channels of a noised video: those of a latent, or 3 of pixels."""
        return int(self.image_config["out_channels"])

    @property
    def cross_attention_dim(self) -> int:
        """Width d of a prompt token."""
        return int(self.image_config["cross_attention_dim"])

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came from the image U-Net."""
        return (parameter for name, parameter in self.named_parameters() if name in self._image_keys)

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters: temporal layers, what reads condition and mask, embedding of the clip numbers."""
        return (parameter for name, parameter in self.named_parameters() if name not in self._image_keys)

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

    def _output(self, hidden: torch.Tensor, num_frames: int) -> torch.Tensor:
        """The last convolution: ((b t) c h w) → (b c t h w)."""
        if self.conv_norm_out is not None:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        return unfold(self.conv_out(hidden), num_frames)

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
            raise NuwaError(
                f"sample of shape {tuple(sample.shape)} has {channels} channels; this network takes {self.in_channels}"
            )
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


def check_mixes(mixes_frames: torch.Tensor | None, batch: int) -> None:
    """Raise NuwaError unless there is one yes or no for every window."""
    if mixes_frames is not None and (mixes_frames.shape != (batch,) or mixes_frames.dtype != torch.bool):
        raise NuwaError(
            f"mixes_frames of shape {tuple(mixes_frames.shape)}, {mixes_frames.dtype}; give ({batch},), bool, one for "
            "each window, or none"
        )


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
