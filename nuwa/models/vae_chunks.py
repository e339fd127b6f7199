"""Encoding and decoding of videos of any length: overlapping chunks of frames, and tiles of a frame.

What a chunk border costs depends on the autoencoder's layers over time. Convolutions reach a fixed number of frames
(`reach`): with an overlap of at least twice that, and no attention over time, the result is that of the whole video.
Attention over time sees all frames of its chunk, and then frames cross-fade over the overlap. With temporal layers at
the identity nothing depends on the chunks at all. No gradients here.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from nuwa.hierarchy import NuwaError
from nuwa.models.vae import LatentGaussian, TemporalVAE
from nuwa.models.vae_tiles import Apply, Tiling, in_tiles
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How much passes the autoencoder at once.

    frames of a chunk, of which two neighbours share `overlap`; tile_px, side of a tile in pixels of the video, None =
    whole frames; tile_overlap_px, pixels that neighbouring tiles share, None = about a quarter of a tile.
    """

    frames: int = 16
    overlap: int = 4
    tile_px: int | None = None
    tile_overlap_px: int | None = None

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise NuwaError(f"chunks of {self.frames} frames hold nothing; give at least 1")
        if not 0 <= self.overlap < self.frames:
            raise NuwaError(
                f"overlap {self.overlap} does not fit chunks of {self.frames} frames; give 0 to {self.frames - 1}"
            )
        if self.tile_px is None:
            if self.tile_overlap_px is not None:
                raise NuwaError(f"tile_overlap_px is {self.tile_overlap_px}, but there are no tiles; give tile_px too")
        elif self.tile_px < 1 or not 0 <= (self.tile_overlap_px or 0) < self.tile_px:
            raise NuwaError(
                f"tiles of {self.tile_px} px with an overlap of {self.tile_overlap_px} px cover nothing;"
                " give an overlap of at least 0 and less than tile_px"
            )


def encode_chunked(vae: TemporalVAE, video: torch.Tensor, pieces: Pieces) -> LatentGaussian:
    """`TemporalVAE.encode` piece by piece: latents (b c t h/f w/f), not scaled, on the device of the video.

    video: (b 3 t h w) in [−1, 1]
    """
    frames = list(encode_stream(vae, video.unbind(dim=2), pieces))
    mean, logvar = (torch.cat(moment, dim=2) for moment in ([f.mean for f in frames], [f.logvar for f in frames]))
    return LatentGaussian(mean, logvar)


def decode_chunked(vae: TemporalVAE, latents: torch.Tensor, pieces: Pieces) -> torch.Tensor:
    """`TemporalVAE.decode` piece by piece: video (b 3 t h w), on the device of the latents.

    latents: (b c t h/f w/f), not scaled
    """
    return torch.stack(list(decode_stream(vae, latents.unbind(dim=2), pieces)), dim=2)


def encode_stream(vae: TemporalVAE, frames: Iterable[torch.Tensor], pieces: Pieces) -> Iterator[LatentGaussian]:
    """Latents (b c 1 h/f w/f), not scaled, of one frame after the other; as many as `pieces.frames` wait inside.

    frames: (b 3 h w) each, in [−1, 1]
    """
    factor = vae.downsample_factor
    tiling = _tiling(pieces, factor, unit_in=factor, unit_out=1)

    def moments(video: torch.Tensor) -> torch.Tensor:
        gaussian = vae.encode(video)
        return torch.cat([gaussian.mean, gaussian.logvar], dim=1)

    checked = (_checked(vae, frame) for frame in frames)
    for both in _in_chunks(_on_device(vae, moments), checked, pieces, tiling, reach(vae.encoder)):
        mean, logvar = both[:, :, None].chunk(2, dim=1)
        yield LatentGaussian(mean, logvar)


def decode_stream(vae: TemporalVAE, latents: Iterable[torch.Tensor], pieces: Pieces) -> Iterator[torch.Tensor]:
    """Frames (b 3 h w), about [−1, 1], of one latent after the other; as many as `pieces.frames` wait inside.

    latents: (b c h/f w/f) each, not scaled
    """
    tiling = _tiling(pieces, vae.downsample_factor, unit_in=1, unit_out=vae.downsample_factor)
    yield from _in_chunks(_on_device(vae, vae.decode), latents, pieces, tiling, reach(vae.decoder))


def reach(network: nn.Module) -> int | None:
    """Frames to either side that a frame may depend on; None with attention over time, which sees a whole chunk."""
    if any(isinstance(module, TemporalAttention) for module in network.modules()):
        return None
    # The convolutions follow one another, so their reaches add up.
    return sum(module.kernel_size[0] // 2 for module in network.modules() if isinstance(module, TemporalConv))


def _tiling(pieces: Pieces, factor: int, *, unit_in: int, unit_out: int) -> Tiling | None:
    if pieces.tile_px is None:
        return None
    overlap = pieces.tile_px // 4 // factor * factor if pieces.tile_overlap_px is None else pieces.tile_overlap_px
    if pieces.tile_px % factor or overlap % factor:
        raise NuwaError(
            f"tiles of {pieces.tile_px} px with an overlap of {overlap} px do not fit latent pixels of"
            f" {factor} px; give multiples of {factor}"
        )
    return Tiling(size=pieces.tile_px // factor, overlap=overlap // factor, unit_in=unit_in, unit_out=unit_out)


def _checked(vae: TemporalVAE, frame: torch.Tensor) -> torch.Tensor:
    factor = vae.downsample_factor
    if frame.ndim != 4 or frame.shape[2] % factor or frame.shape[3] % factor:
        raise NuwaError(f"frame of shape {tuple(frame.shape)}; give (b, 3, h, w) with h and w multiples of {factor}")
    return frame


def _on_device(vae: TemporalVAE, apply: Apply) -> Apply:
    """`apply` where the autoencoder is and in its precision; the result is where the input was."""

    @torch.no_grad()
    def moved(video: torch.Tensor) -> torch.Tensor:
        return apply(video.to(vae.device, vae.dtype)).to(video.device, video.dtype)

    return moved


def _in_chunks(
    apply: Apply, frames: Iterable[torch.Tensor], pieces: Pieces, tiling: Tiling | None, reach_frames: int | None
) -> Iterator[torch.Tensor]:
    """Results (b c' h' w') of frames (b c h w), in order, from chunks (b c t h w) that overlap.

    The last chunk is moved back, so that it is full. Only one chunk and the frames two chunks share are kept.
    """
    recent: deque[torch.Tensor] = deque(maxlen=pieces.frames)
    shared: torch.Tensor | None = None  # b c' k h' w': done but for the next chunk
    waiting = 0
    margin = reach_frames if reach_frames is not None and 2 * reach_frames <= pieces.overlap else 0
    for frame in frames:
        if recent and recent[0].shape != frame.shape:
            raise NuwaError(f"frames of shapes {tuple(recent[0].shape)} and {tuple(frame.shape)} in one video")
        recent.append(frame)
        waiting += 1
        if waiting < (pieces.frames if shared is None else pieces.frames - pieces.overlap):
            continue
        done, waiting = _chunk(apply, recent, tiling), 0
        done = done if shared is None else cross_fade(shared, done, margin)
        keep = pieces.frames - pieces.overlap
        yield from done[:, :, :keep].unbind(dim=2)
        shared = done[:, :, keep:]
    if not recent:
        raise NuwaError("a video without frames cannot pass the autoencoder; give at least one frame")
    if waiting:
        done = _chunk(apply, recent, tiling)
        if shared is not None:
            done = cross_fade(shared, done[:, :, -waiting - pieces.overlap :], margin)
        shared = done
    assert shared is not None
    yield from shared.unbind(dim=2)


def _chunk(apply: Apply, frames: Iterable[torch.Tensor], tiling: Tiling | None) -> torch.Tensor:
    """Result (b c' t h' w') of one chunk."""
    video = torch.stack(list(frames), dim=2)  # b c t h w
    return apply(video) if tiling is None else in_tiles(apply, video, tiling)


def cross_fade(before: torch.Tensor, after: torch.Tensor, margin: int = 0) -> torch.Tensor:
    """`after` (… t h w), its first k frames faded in over `before` (… k h w); k = 0 changes nothing.

    The first `margin` of the k are those of `before` and the last `margin` those of `after`: there the other one
    stands too close to its own border.
    """
    count = before.shape[-3]
    if count == 0:
        return after
    steps = torch.arange(count, device=after.device) - margin + 1
    weight = steps.div(count - 2 * margin + 1).clamp(0.0, 1.0).to(after.dtype)[:, None, None]
    return torch.cat([torch.lerp(before, after[..., :count, :, :], weight), after[..., count:, :, :]], dim=-3)
