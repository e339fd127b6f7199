"""Pixels of windows to scaled latents and back: whole frames, or in tiles so that large frames need no more memory.

In tiles, one window of one tile passes the autoencoder at a time, and what is put together of them lies on the CPU. The
denoiser still sees whole windows, of latents.
"""

from typing import TYPE_CHECKING

import torch

from nuwa.hierarchy import NuwaError
from nuwa.models.vae_chunks import Pieces, decode_chunked, encode_chunked

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

SMALLEST_TILE = 4
"""Latent pixels on a side; neighbouring tiles share a quarter, so that there is always something to blend."""


def check_tiles(pipe: "NuwaXLPipeline", tile_px: int | None) -> None:
    """Raise NuwaError for tiles that the autoencoder cannot be given."""
    if tile_px is None:
        return
    factor = pipe.vae.downsample_factor
    if tile_px % factor or tile_px < SMALLEST_TILE * factor:
        raise NuwaError(
            f"tile_px is {tile_px}, but a latent pixel of this model is {factor} px wide; "
            f"give a multiple of {factor}, at least {SMALLEST_TILE * factor}, or none for whole frames"
        )


def encode_window(
    pipe: "NuwaXLPipeline", video: torch.Tensor, dtype: torch.dtype, tile_px: int | None = None
) -> torch.Tensor:
    """Scaled latents (b c t h/f w/f), float32 on the device of `pipe`.

    video: (b 3 t h w) in [−1, 1]; dtype: what the autoencoder computes in
    """
    if tile_px is None:
        latents = pipe.vae.encode(video.to(pipe.device, dtype)).mode()
    else:
        latents = encode_chunked(pipe.vae, video.float().cpu(), _one_chunk(video, tile_px)).mode().to(pipe.device)
    return latents.float() * pipe.vae.config.scaling_factor


def decode_window(
    pipe: "NuwaXLPipeline", latents: torch.Tensor, dtype: torch.dtype, tile_px: int | None = None
) -> torch.Tensor:
    """Video (b 3 t H W) in [−1, 1], float32, on the device of `pipe`; in tiles window after window, on the CPU.

    latents: (b c t h w), scaled; dtype: what the autoencoder computes in
    """
    vae = pipe.vae
    if tile_px is None:
        scaled = latents.to(pipe.device) / vae.config.scaling_factor
        return vae.decode(scaled.to(dtype)).float().clamp(-1.0, 1.0)
    scaled, pieces = latents.float().cpu() / vae.config.scaling_factor, _one_chunk(latents, tile_px)
    return torch.cat([decode_chunked(vae, window, pieces) for window in scaled.split(1)]).clamp(-1.0, 1.0)


def _one_chunk(video: torch.Tensor, tile_px: int) -> Pieces:
    """All frames of a window (b c t h w) at once: it is as long as the autoencoder has learned."""
    return Pieces(frames=video.shape[2], overlap=0, tile_px=tile_px)
