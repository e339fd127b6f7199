"""Frames of any video made larger as they come: super-resolution in segments, so that memory follows one segment.

Inside a segment all windows are joined at every step (Lumiere Sec. 3.2). Paper: clips of 80 frames, whole; here, of a
longer video: neighbouring segments share half of a window, made by both from the same initial noise, and cross-fade
there. To hold those frames fixed instead, finished by the segment before, leaves a border that shows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from einops import rearrange

from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.multidiffusion import Tiling, cuts
from nuwa.generate.samplers import Sampler
from nuwa.generate.streaming_decode import DECODE_OVERLAP, as_images
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.generate.super_resolution import Upsampling, upsample_video
from nuwa.generate.window_pixels import SMALLEST_TILE
from nuwa.generate.windows import PROMPTS_KEPT, WindowResult
from nuwa.hierarchy import NuwaError, Window
from nuwa.models.ssr import enlarged
from nuwa.models.vae_chunks import Pieces, cross_fade, decode_chunked, encode_chunked


@dataclass(frozen=True, kw_only=True)
class Enlarging:
    """How a video is made larger.

    scale: times that a side becomes longer
    segment: frames that are made at once. Memory holds a segment of large frames about ten times in float32, and one
        batch of windows in the network, whatever the length of the video
    tile_px: side of the tiles that large frames pass the networks in, None = whole frames
    """

    upsampling: Upsampling
    scale: int
    segment: int = 64
    tile_px: int | None = None

    def __post_init__(self) -> None:
        shared = self.upsampling.tiling.frame_overlap
        if not 0 < shared < self.segment:
            raise NuwaError(f"segments of {self.segment} frames hold no windows that share {shared}; make them longer")
        if self.scale < 1:
            raise NuwaError(f"upscale {self.scale} leaves no pixels; give 1 or more")

    @property
    def shared(self) -> int:
        """Frames that neighbouring segments have in common."""
        return min(self.upsampling.tiling.frames, self.segment) // 2


class Enlarger:
    """The super-resolution of one pipeline with one `Enlarging`.

    NuwaError for a pipeline without one, and for more sampler steps than its noise schedule has.
    """

    def __init__(self, pipe: StunetPipeline, enlarging: Enlarging) -> None:
        if pipe.ssr is None:
            raise NuwaError("this pipeline has no super-resolution; give the `model` of a training of stage ssr")
        self.pipe, self.enlarging = pipe, enlarging
        self._upsampling = replace(enlarging.upsampling, tiling=self._tiling())
        self._encode = lru_cache(PROMPTS_KEPT)(lambda prompt: pipe.encode_prompts([prompt])[0])
        chosen = enlarging.upsampling
        Sampler(pipe.scheduler, chosen.sampler, chosen.steps, torch.device("cpu"))  # to refuse at once

    def frames(
        self, small: Iterable[np.ndarray], prompts: Sequence[str], keep: FinishedWindows | None = None
    ) -> Iterator[np.ndarray]:
        """Large frames, uint8 (H W 3), of small ones with a prompt each, segment by segment.

        keep: finished segments go there and are not made again; the small frames are read all the same.
        """
        arriving, held = iter(small), list[np.ndarray]()
        fading: torch.Tensor | None = None  # 3 k H W, what the next segment makes too
        places = cuts(len(prompts), self.enlarging.segment, self.enlarging.shared)
        segments = [Window(0, number, place.start, 1) for number, place in enumerate(places)]
        finished = set() if keep is None else keep.windows(segments)
        following = [*(place.start for place in places[1:]), len(prompts)]
        for segment, place, end in zip(segments, places, following, strict=True):
            held += islice(arriving, place.stop - place.start - len(held))
            assert len(held) == place.stop - place.start, "a prompt for every frame"
            if keep is not None and segment in finished:
                made = keep.read(segment).latents
            else:
                made = self._made(held, prompts[place], segment, keep)
            video = self._decoded(made)
            video = video if fading is None else cross_fade(fading, video)
            alone = end - place.start
            held, fading = held[alone:], video[:, alone:].clone()
            yield from as_images(video[:, :alone])

    def _tiling(self) -> Tiling:
        """Windows over time, and where tiles are asked for also over space, in what the network sees."""
        tiling, tile_px = self.enlarging.upsampling.tiling, self.enlarging.tile_px
        if tile_px is None:
            return tiling
        factor = 1 if self.pipe.vae is None else self.pipe.vae.downsample_factor
        if tile_px % factor or tile_px < SMALLEST_TILE * factor:
            raise NuwaError(
                f"--ssr-tile-px is {tile_px}; give a multiple of {factor}, at least {SMALLEST_TILE * factor}, "
                "or leave it out for whole frames"
            )
        return replace(tiling, tile=tile_px // factor, tile_overlap=tile_px // factor // 4)

    @torch.no_grad()
    def _made(
        self, small: Sequence[np.ndarray], prompts: Sequence[str], segment: Window, keep: FinishedWindows | None
    ) -> torch.Tensor:
        """A segment, and kept: uint8 pixels, or with an autoencoder float32 latents, (c t H W) on the CPU."""
        pipe, null = self.pipe, self._encode("")
        tokens = torch.stack([self._encode(prompt) for prompt in prompts])[None]  # 1 t n d
        video = self.large(small).to(pipe.device, tokens.dtype)
        made = upsample_video(pipe.ssr, pipe.scheduler, video, tokens, null, self._upsampling, segment.first)[0].cpu()
        if pipe.vae is None:
            made = made.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        if keep is not None:
            keep.write(segment, WindowResult(made, None))
        return made

    def large(self, small: Sequence[np.ndarray]) -> torch.Tensor:
        """Enlarged frames (1 c t H W), encoded where the pipeline has an autoencoder."""
        frames = rearrange(torch.from_numpy(np.stack(small)), "t h w c -> 1 c t h w").float() / 127.5 - 1.0
        height, width = (side * self.enlarging.scale for side in frames.shape[-2:])
        video = enlarged(frames, height, width)
        if self.pipe.vae is None:
            return video
        return encode_chunked(self.pipe.vae, video, self._pieces()).mode() * self.pipe.vae.config.scaling_factor

    @torch.no_grad()
    def _decoded(self, kept: torch.Tensor) -> torch.Tensor:
        """A kept segment as video (3 t H W) in [−1, 1]."""
        if self.pipe.vae is None:
            return kept.float() / 127.5 - 1.0
        latents = kept[None] / self.pipe.vae.config.scaling_factor
        return decode_chunked(self.pipe.vae, latents, self._pieces())[0].clamp(-1.0, 1.0)

    def _pieces(self) -> Pieces:
        """Chunks of as many frames as a window has."""
        length = self.enlarging.upsampling.tiling.frames
        return Pieces(frames=length, overlap=min(DECODE_OVERLAP, (length - 1) // 2), tile_px=self.enlarging.tile_px)
