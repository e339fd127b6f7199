"""A whole clip in one pass of the space-time U-Net (Lumiere Sec. 3.1, 4): noise in, every frame out, known pixels held.

The network sees ⟨noised video, masked video, mask⟩. A clip longer than it was trained for is sampled in windows over
time that are joined at each step. Latents stand for pixels where the pipeline has an autoencoder.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from nuwa.diffusion.guidance import frame_scales, guided
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.masks import Known, extended, in_latents, nothing
from nuwa.generate.multidiffusion import Tiling, multidiffusion
from nuwa.generate.number_checks import is_whole
from nuwa.generate.samplers import Sampler, denoise
from nuwa.generate.streaming_decode import DECODE_OVERLAP, as_images, decode_frames
from nuwa.generate.window_pixels import check_tiles, decode_window
from nuwa.generate.windows import PROMPTS_KEPT, Sampling, noise_generator
from nuwa.hierarchy import NuwaError
from nuwa.models.vae_chunks import Pieces, encode_chunked

if TYPE_CHECKING:
    from nuwa.generate.stunet_pipeline import StunetPipeline

OnStep = Callable[[int, int], None]
"""Told after each sampler step: steps done, all steps."""


@dataclass(frozen=True, kw_only=True)
class ClipSampling(Sampling):
    """How a clip is sampled: all that fixes the result beside weights, prompts and what is known.

    `steps` is one number. `condition` stays `pixels`: what is known is always encoded from pixels.

    batch: windows per denoiser call where the clip is longer than the network was trained for
    overlap: frames that neighbours among these windows share; None = half of a window. Paper: its clips have one
        length; here: half, because neighbours of a video made from nothing agree in what they share only
    """

    batch: int = 1
    overlap: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, given in (("steps are", self.steps), ("guidance is", self.guidance)):
            if isinstance(given, tuple) and len(given) != 1:
                raise NuwaError(f"{name} given for {len(given)} levels, {given}; a clip has one: give a number")
        if self.overlap is not None and not is_whole(self.overlap, 0):
            raise NuwaError(f"overlap is {self.overlap!r}; it must be a whole number of frames, or none for half")
        if self.condition != "pixels":
            raise NuwaError(f"condition {self.condition!r} is for NUWA-XL; a clip is conditioned on pixels")


def padded_length(num_frames: int, factor: int) -> int:
    """Frames that the network makes for a clip: the next multiple of its temporal factor."""
    return math.ceil(num_frames / factor) * factor


class ClipSampler:
    """Samples clips of one pipeline with one `ClipSampling`; keeps the prompts it has encoded.

    Memory: the walk holds a clip about ten times in float32, and the network one batch of windows; so it grows with
    the length of the clip, and beyond the trained length only by what the walk holds.
    NuwaError for a sampler that cannot work with the pipeline's schedule, for more steps than it has, and for windows
    that cannot share so many frames.
    """

    def __init__(self, pipe: "StunetPipeline", sampling: ClipSampling) -> None:
        self.pipe, self.sampling = pipe, sampling
        self.length: int = pipe.config.window_length
        if pipe.vae is None and sampling.tile_px is not None:
            raise NuwaError(f"tile_px is {sampling.tile_px}, but this model works on pixels, without an autoencoder")
        if pipe.vae is not None:
            check_tiles(pipe, sampling.tile_px)
        self._encode = lru_cache(PROMPTS_KEPT)(lambda prompt: pipe.encode_prompts([prompt])[0])
        self.tiling = self._tiling()
        self._walk()  # to refuse before anything runs

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], known: Known | None = None, on_step: OnStep | None = None) -> torch.Tensor:
        """Scaled latents (c t h w) of a clip of one frame per prompt; its pixels without an autoencoder. Float32, CPU.

        known: what is given in pixels, (3 t H W); None = nothing. In the result given latents, or pixels, are bitwise
        what they were before.

        The network makes a multiple of its temporal factor; frames beyond those asked for repeat the last prompt,
        know nothing, and are cut off. The noise of a frame depends on the seed and its number only.
        """
        pipe, sampling, count = self.pipe, self.sampling, len(prompts)
        known = nothing(count, pipe.config.height, pipe.config.width) if known is None else known
        self._check(known, count)
        made = padded_length(count, pipe.stunet.temporal_factor)
        # Padded in pixels: to an autoencoder an unknown frame is zeros, encoded, as in training.
        seen = self._given(Known(extended(known.video, made), extended(known.mask, made)))
        given, mask = (part[None].to(pipe.device) for part in (seen.video, seen.mask))
        tokens = torch.stack([self._encode(prompt) for prompt in [*prompts, *[prompts[-1]] * (made - count)]])[None]
        stride, ids = torch.ones(1, device=pipe.device), self._time_ids()
        prompted = guided(self._joined(made), self._scale(count, made), self._encode(""))
        z_c, where, walk = given.to(tokens.dtype), mask.to(tokens.dtype), self._walk()
        done = 0

        def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            """The walk is float32; the networks have their own precision."""
            nonlocal done
            prediction = prompted(zt.to(tokens.dtype), steps, tokens, z_c, where, stride, ids).float()
            done += 1
            if on_step is not None:
                on_step(done, len(walk.timesteps))
            return prediction

        noise = clip_noise(sampling.seed, given.shape).to(pipe.device)
        latents = denoise(predict, walk, noise, given, mask, [noise_generator(sampling.seed, "clip", 0, 0)])
        return latents[0, :, :count].cpu()

    def frames(self, latents: torch.Tensor) -> Iterator[np.ndarray]:
        """Frames, uint8 (H W 3), of what `sample` made, decoded in chunks of the trained length."""
        if self.pipe.vae is None:
            return as_images(latents)
        return decode_frames(self._decode, latents, self.length)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return decode_window(self.pipe, latents, self._precision(), self.sampling.tile_px)

    def _given(self, known: Known) -> Known:
        """What the network is shown and what is held while sampling: pixels, or the masked video encoded, (c t h w).

        Paper: pixels. Here, of latents: encoded with zeros for unknown pixels, as in training. To fill those in before
        what is held is encoded does not bring known pixels nearer: with the autoencoder that ships their mean error
        changes by −0.6 to +0.5 of 255 grey levels, by the task.
        """
        if self.pipe.vae is None:
            return known
        factor = self.pipe.vae.downsample_factor
        latents = in_latents(known, self._encode_video, factor)
        if known.mask.any() and not latents.mask.any():
            raise NuwaError(
                f"no square of {factor}×{factor} px, what one latent stands for, is wholly given, so nothing would be "
                f"kept; give a box or mask that leaves whole squares of {factor} px"
            )
        return latents if latents.mask.any() else Known(torch.zeros_like(latents.video), latents.mask)

    def _encode_video(self, video: torch.Tensor) -> torch.Tensor:
        """Scaled latents (1 c t h w) of a video (1 3 t H W), in chunks of the trained length."""
        vae, length = self.pipe.vae, min(self.length, video.shape[2])
        pieces = Pieces(frames=length, overlap=min(DECODE_OVERLAP, (length - 1) // 2), tile_px=self.sampling.tile_px)
        return encode_chunked(vae, video.float(), pieces).mode() * vae.config.scaling_factor

    def _tiling(self) -> Tiling:
        """Windows of the trained length, a multiple of the temporal factor, for clips that are longer."""
        window, overlap = padded_length(self.length, self.pipe.stunet.temporal_factor), self.sampling.overlap
        return Tiling(
            frames=window,
            frame_overlap=window // 2 if overlap is None else overlap,
            batch=self.sampling.batch,
            weights="ramp",
        )

    def _joined(self, num_frames: int) -> Denoiser:
        """The network for a clip of any length."""
        whole = num_frames <= self.tiling.frames
        return self.pipe.stunet if whole else multidiffusion(self.pipe.stunet, self.tiling)

    def _scale(self, num_frames: int, made: int) -> float | torch.Tensor:
        """Guidance: one number, or (made,) where it grows over the frames shown; padding has that of the last."""
        first, last = self.sampling.guidance_at(0), self.sampling.guidance_last
        if last is None or last == first:
            return first
        scales = frame_scales(first, last, num_frames)
        return torch.cat([scales, scales[-1:].expand(made - num_frames)])

    def _walk(self) -> Sampler:
        """A walk of the sampler; each clip takes a new one."""
        steps = self.sampling.steps_at(0)
        return Sampler(self.pipe.scheduler, self.sampling.sampler, steps, torch.device(self.pipe.device))

    def _time_ids(self) -> torch.Tensor:
        """Fps, motion score, noise augmentation (none): (1, 3), NaN = not known."""
        motion = math.nan if self.sampling.motion_score is None else self.sampling.motion_score
        return torch.tensor([[self.sampling.fps, motion, 0.0]], device=self.pipe.device)

    def _precision(self) -> torch.dtype:
        """That of the networks, told by the prompts they encode."""
        return self._encode("").dtype

    def _check(self, known: Known, count: int) -> None:
        """Raise NuwaError when what is known is of another size than the clip."""
        wanted = (3, count, self.pipe.config.height, self.pipe.config.width)
        if tuple(known.video.shape) != wanted:
            raise NuwaError(f"known pixels of shape {tuple(known.video.shape)}; this clip needs {wanted}")


def clip_noise(seed: int, shape: torch.Size) -> torch.Tensor:
    """Initial noise (1 c t h w) of a clip, each frame's from a generator of its own."""
    _, channels, num_frames, height, width = shape
    frames = [
        torch.randn(channels, height, width, generator=noise_generator(seed, "clip", 1, frame))
        for frame in range(num_frames)
    ]
    return torch.stack(frames, dim=1)[None]
