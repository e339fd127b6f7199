"""The networks of benchmarks.denoisers: sizes with equal parameters, how each is built and how each is called."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetSpatioTemporalConditionModel
from torch import nn

from nuwa.models.mtd import MaskTemporalUNet

LATENT_CHANNELS, NUM_FRAMES, NUM_TOKENS = 4, 16, 77


@dataclass(frozen=True, kw_only=True)
class Size:
    """One comparison: widths of the peers, and those of ours that have as many parameters as each of them.

    All have the same number of attention heads at every resolution.
    """

    name: str
    latent_px: int
    batch: int
    layers: int
    heads: tuple[int, ...]
    token_width: int
    peer_channels: tuple[int, ...]
    beside_3d: tuple[int, ...]
    beside_spatio_temporal: tuple[int, ...]


TOY = Size(
    name="toy",
    latent_px=8,
    batch=4,
    layers=1,
    heads=(2, 4),
    token_width=128,
    peer_channels=(64, 128),
    beside_3d=(80, 168),
    beside_spatio_temporal=(80, 168),
)
LARGER = Size(
    name="larger",
    latent_px=32,
    batch=1,
    layers=2,
    heads=(2, 4, 8),
    token_width=256,
    peer_channels=(64, 128, 256),
    beside_3d=(80, 160, 320),
    beside_spatio_temporal=(80, 168, 336),
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """sample (b c t h w), prompts (b n d), step and stride (b,), numbers (b, 3) of a batch of windows."""

    sample: torch.Tensor
    prompts: torch.Tensor
    step: torch.Tensor
    stride: torch.Tensor
    numbers: torch.Tensor
    mask: torch.Tensor


Call = Callable[[nn.Module, Inputs], torch.Tensor]


@dataclass(frozen=True)
class Contender:
    """A network in the comparison: its name, its weights, and how it is called."""

    name: str
    module: nn.Module
    call: Call

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.module.parameters())


def call_ours(module: nn.Module, given: Inputs) -> torch.Tensor:
    """One prompt for the window, as the peers have it."""
    output: torch.Tensor = module(
        given.sample, given.step, given.prompts, given.sample, given.mask, given.stride, given.numbers
    )
    return output


def call_ours_per_frame(module: nn.Module, given: Inputs) -> torch.Tensor:
    """A prompt for every frame, as generation calls it."""
    prompts = given.prompts[:, None].expand(-1, NUM_FRAMES, -1, -1)
    output: torch.Tensor = module(
        given.sample, given.step, prompts, given.sample, given.mask, given.stride, given.numbers
    )
    return output


def call_3d(module: nn.Module, given: Inputs) -> torch.Tensor:
    """UNet3DConditionModel: (b c t h w)."""
    output: torch.Tensor = module(given.sample, given.step, given.prompts).sample
    return output


def call_spatio_temporal(module: nn.Module, given: Inputs) -> torch.Tensor:
    """UNetSpatioTemporalConditionModel: (b t c h w)."""
    frames = given.sample.transpose(1, 2).contiguous()
    output: torch.Tensor = module(frames, given.step, given.prompts, given.numbers).sample
    return output


def ours(size: Size, channels: tuple[int, ...]) -> nn.Module:
    """MaskTemporalUNet of these widths; weights as training finds them after a step, so that no branch is zero."""
    levels = len(channels)
    unet = UNet2DConditionModel(
        sample_size=size.latent_px,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=size.layers,
        cross_attention_dim=size.token_width,
        attention_head_dim=size.heads,
        norm_num_groups=8,
    )
    model = MaskTemporalUNet.from_unet(unet)
    with torch.no_grad():
        for weight in model.temporal_parameters():
            weight += 0.01 * torch.randn_like(weight)
    return model


def peer_3d(size: Size) -> nn.Module:
    """UNet3DConditionModel; what it calls attention_head_dim is the width of a head."""
    levels = len(size.peer_channels)
    return UNet3DConditionModel(
        sample_size=size.latent_px,
        down_block_types=("CrossAttnDownBlock3D",) * levels,
        up_block_types=("CrossAttnUpBlock3D",) * levels,
        block_out_channels=size.peer_channels,
        layers_per_block=size.layers,
        cross_attention_dim=size.token_width,
        attention_head_dim=size.peer_channels[0] // size.heads[0],
    )


def peer_spatio_temporal(size: Size) -> nn.Module:
    """UNetSpatioTemporalConditionModel, without the channels on which Stable Video Diffusion puts its condition."""
    levels = len(size.peer_channels)
    return UNetSpatioTemporalConditionModel(
        sample_size=size.latent_px,
        in_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * levels,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * levels,
        block_out_channels=size.peer_channels,
        layers_per_block=size.layers,
        cross_attention_dim=size.token_width,
        num_attention_heads=size.heads,
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=768,
        num_frames=NUM_FRAMES,
    )


def inputs_of(size: Size, batch: int, like: torch.Tensor) -> Inputs:
    """Random latents and prompts of the type and on the device of `like`; first and last frame given."""
    torch.manual_seed(0)
    sample = torch.randn(batch, LATENT_CHANNELS, NUM_FRAMES, size.latent_px, size.latent_px).to(like)
    mask = torch.zeros_like(sample[:, :1])
    mask[:, :, [0, -1]] = 1
    return Inputs(
        sample=sample,
        prompts=torch.randn(batch, NUM_TOKENS, size.token_width).to(like),
        step=torch.full((batch,), 500, device=like.device),
        stride=torch.ones(batch, device=like.device),
        numbers=torch.tensor([[8.0, 0.3, 0.0]] * batch).to(like),
        mask=mask,
    )
