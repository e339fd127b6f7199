"""Temporal KL autoencoder, T-KLVAE (NUWA-XL Sec. 3.1): an image autoencoder whose frames see their neighbours."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.vae_blocks import TemporalDecoder, TemporalEncoder
from nuwa.nn.frames import fold, unfold
from nuwa.nn.inflation import load_image_weights

DOWN_BLOCKS = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
UP_BLOCKS = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
IMAGE_OPTIONS = (
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
)


@dataclass(frozen=True)
class LatentGaussian:
    """Diagonal Gaussian of latents, mean and logvar (b c t h w), not yet multiplied by `scaling_factor`."""

    mean: torch.Tensor
    logvar: torch.Tensor

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """One draw (b c t h w) from `generator`, which lives on the device of the latents or on the CPU."""
        device = self.mean.device if generator is None else generator.device
        eps = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * eps.to(self.mean.device)

    def mode(self) -> torch.Tensor:
        """The mean (b c t h w)."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """Divergence from the standard normal in nats, (b,), summed over c t h w."""
        divergence = 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
        return divergence.flatten(1).sum(dim=1)


class TemporalVAE(ModelMixin, ConfigMixin):
    """An image KL autoencoder inflated to video: (b 3 t h w) ⇄ (b c t h/f w/f), no compression of time.

    A temporal convolution follows every spatial one that looks beyond its own pixel, and a temporal attention every
    spatial attention, in encoder and decoder. Both are the identity at first (Eq. 1 and 2): the new autoencoder is the
    image autoencoder, frame by frame. Spatial modules and their keys are those of `AutoencoderKL`; its options and
    their meaning too. Normalisation never mixes frames. Videos too long or too large to pass at once go through
    `nuwa.models.vae_chunks`; generation takes its tiles where `Sampling.tile_px` asks for them.
    `enable_gradient_checkpointing()` trades time for memory in training, with the same gradients.

    temporal_kernel: frames a temporal convolution looks at. Paper: not stated; here 3
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        temporal_kernel: int = 3,
    ) -> None:
        super().__init__()
        _check_supported(down_block_types, DOWN_BLOCKS)
        _check_supported(up_block_types, UP_BLOCKS)
        _check_scale(scaling_factor)
        image = AutoencoderKL(**self._image_config())
        self._image_keys = frozenset(image.state_dict())
        self.encoder = TemporalEncoder(image.encoder, temporal_kernel)
        self.decoder = TemporalDecoder(image.decoder, temporal_kernel)
        self.quant_conv, self.post_quant_conv = image.quant_conv, image.post_quant_conv

    @classmethod
    def from_image_vae(cls, vae: AutoencoderKL, temporal_kernel: int = 3) -> Self:
        """The autoencoder of videos that equals `vae` frame by frame; weights are copied. NuwaError if unsupported."""
        options = {name: vae.config[name] for name in IMAGE_OPTIONS}
        shifted = [name for name in ("shift_factor", "latents_mean", "latents_std") if options[name] is not None]
        if shifted:
            raise NuwaError(
                f"autoencoders with {shifted[0]} are not supported: latents are scaled only; use another one"
            )
        model = cls(**options, temporal_kernel=temporal_kernel)
        model.load_image_state(vae.state_dict())
        return model if model.dtype == vae.dtype else model.to(vae.dtype)

    def load_image_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over the weights of an image autoencoder, key for key."""
        load_image_weights(self, self._image_keys, state, "image autoencoder")

    def image_vae(self) -> AutoencoderKL:
        """The spatial weights as an image autoencoder of their own (a copy)."""
        image = AutoencoderKL(**self._image_config())
        state = self.state_dict()
        image.load_state_dict({key: state[key] for key in self._image_keys})
        return image if image.dtype == self.dtype else image.to(self.dtype)

    def _image_config(self) -> dict[str, Any]:
        """Options of the image autoencoder."""
        return {name: self.config[name] for name in IMAGE_OPTIONS}

    @property
    def downsample_factor(self) -> int:
        """Pixels per latent pixel in height and in width."""
        return int(2 ** (len(self.config.block_out_channels) - 1))

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came from the image autoencoder."""
        return (parameter for name, parameter in self.named_parameters() if name in self._image_keys)

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        return (parameter for name, parameter in self.named_parameters() if name not in self._image_keys)

    def encode(self, video: torch.Tensor) -> LatentGaussian:
        """Gaussian of latents (b c t h/f w/f), not scaled.

        video: (b 3 t h w) in [−1, 1], height and width multiples of `downsample_factor`
        """
        factor, num_frames = self.downsample_factor, video.shape[2]
        if video.shape[1] != self.config.in_channels or video.shape[3] % factor or video.shape[4] % factor:
            raise NuwaError(
                f"video of shape {tuple(video.shape)}; give (b, {self.config.in_channels}, t, h, w)"
                f" with h and w multiples of {factor}"
            )
        hidden = self.encoder(fold(video), num_frames)
        if self.quant_conv is not None:
            hidden = self.quant_conv(hidden)
        mean, logvar = unfold(hidden, num_frames).chunk(2, dim=1)
        return LatentGaussian(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Video (b 3 t h w), about [−1, 1], not clamped.

        latents: (b c t h/f w/f), not scaled
        """
        if latents.shape[1] != self.config.latent_channels:
            raise NuwaError(
                f"latents have {latents.shape[1]} channels; this decoder takes {self.config.latent_channels}"
            )
        num_frames = latents.shape[2]
        hidden = fold(latents)
        if self.post_quant_conv is not None:
            hidden = self.post_quant_conv(hidden)
        return unfold(self.decoder(hidden, num_frames), num_frames)

    def forward(self, video: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Encode, draw, decode: video (b 3 t h w) → its reconstruction (b 3 t h w)."""
        return self.decode(self.encode(video).sample(generator))


def _check_scale(scale: object) -> None:
    """Raise for a scale that latents cannot be brought to unit variance by, and back."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise NuwaError(f"scaling_factor is {scale!r}; it must be a number above 0, 1 over the spread of latents")


def _check_supported(given: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise for block types that have no temporal counterpart here."""
    for block_type in given:
        if block_type not in known:
            raise NuwaError(f"autoencoder block {block_type!r} cannot be inflated; use {', '.join(known)}")
