"""One batch of windows: noise in, latents out, given frames held fixed (NUWA-XL Sec. 3.2, 3.3)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import torch

from nuwa.diffusion.guidance import frame_scales, guided
from nuwa.generate.number_checks import is_number, is_whole
from nuwa.generate.samplers import Sampler, SamplerName, denoise
from nuwa.generate.window_pixels import check_tiles, decode_window, encode_window
from nuwa.hierarchy import NuwaError, Window

if TYPE_CHECKING:
    from nuwa.generate.pipeline import NuwaXLPipeline

Condition = Literal["pixels", "latents"]
Number = TypeVar("Number", int, float)

PROMPTS_KEPT = 512
"""Encoded prompts that a sampler keeps."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How windows are sampled: all that fixes the result beside weights and prompts.

    steps: of the scheduler; one number for all levels, or one per level, global first
    guidance: scale (1 = none); one number for all levels, or one per level, global first
    guidance_last: with it the scale grows linearly over the frames of every window (Stable Video Diffusion)
    sampler: `trained` is the pipeline's own scheduler
    batch: local windows per denoiser call; fewer are padded to this
    fps: of the video, 1/s; motion_score: mean optical flow in frame heights per second, None = not asked for
    condition: `pixels`, the paper's encoding of the window with unknown frames zeroed before it is encoded, or
        `latents`, the given frames' latents as they are and zeros elsewhere, which saves the encoder. On the shipped
        model, which knows only the former, that is 2 % of a window's time by the encoder's own clock and 4 % between
        whole runs; the denoising loss is 3 % higher, and without any condition 46 % (python -m benchmarks.condition)
    tile_px: side of the tiles, in pixels of the video, in which the autoencoder takes and makes frames, so that its
        memory does not grow with them; None = whole frames. Another result: norms and attention see the tile only
    """

    steps: int | tuple[int, ...] = 20
    guidance: float | tuple[float, ...] = 2.0
    guidance_last: float | None = None
    sampler: SamplerName = "trained"
    seed: int = 0
    batch: int = 4
    fps: float = 8.0
    motion_score: float | None = None
    condition: Condition = "pixels"
    tile_px: int | None = None

    def __post_init__(self) -> None:
        steps, scales = _numbers(self.steps), _numbers(self.guidance)
        last, motion = self.guidance_last, self.motion_score
        above_0, whole = "it must be a number above 0", "it must be a number above 0 and whole"
        rules = (
            ("steps", bool(steps) and all(map(is_whole, steps)), f"{whole}, or one such number per level"),
            ("batch", is_whole(self.batch), whole),
            ("fps", is_number(self.fps) and self.fps > 0, above_0),
            ("guidance", bool(scales) and all(map(is_number, scales)), "give a number (1 is none), or one per level"),
            ("guidance_last", last is None or is_number(last), "give a number (1 is none)"),
            ("seed", is_whole(self.seed, None), "it must be a whole number"),
            ("motion_score", motion is None or (is_number(motion) and motion >= 0), "give 0 or more, or none"),
            ("tile_px", self.tile_px is None or is_whole(self.tile_px), f"{whole}, or none for whole frames"),
        )
        for name, fits, remedy in rules:
            if not fits:
                raise NuwaError(f"{name} is {getattr(self, name)!r}; {remedy}")
        for name, known in (("sampler", get_args(SamplerName)), ("condition", get_args(Condition))):
            if getattr(self, name) not in known:
                raise NuwaError(f"{name} {getattr(self, name)!r} is unknown; use {', '.join(known)}")

    def check_levels(self, levels: int) -> None:
        """Raise NuwaError when steps or guidance are given per level and for other than the video's `levels`."""
        for name, given in (("steps are", self.steps), ("guidance is", self.guidance)):
            if isinstance(given, tuple) and len(given) != levels:
                raise NuwaError(
                    f"{name} given for {len(given)} levels, {given}, and the video has {levels}; "
                    "give one number per level, or a single one for all"
                )

    def steps_at(self, level: int) -> int:
        """Sampler steps of windows at `level`."""
        return self._of_level(self.steps, level)

    def guidance_at(self, level: int) -> float:
        """Guidance scale of windows at `level`, that of their first frame where it grows."""
        return self._of_level(self.guidance, level)

    def _of_level(self, values: Number | tuple[Number, ...], level: int) -> Number:
        """The one number of all levels, or that of `level`."""
        if not isinstance(values, tuple):
            return values
        self.check_levels(max(level + 1, len(values)))
        return values[level]


def per_level(values: Number | Sequence[Number]) -> Number | tuple[Number, ...]:
    """`Sampling`'s form of what a caller gives: one number for all levels, however it is written, or a tuple."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        return values
    return values[0] if len(values) == 1 else tuple(values)


def _numbers(values: Number | tuple[Number, ...]) -> tuple[Number, ...]:
    """The number of every level, or the one of all."""
    return values if isinstance(values, tuple) else (values,)


@dataclass(frozen=True)
class FixedFrame:
    """A frame that is made and never changes again; float32 on the CPU.

    latent: (c h w), scaled to unit variance
    pixels: (3 H W) in [−1, 1], decoded once by the window that made it
    """

    latent: torch.Tensor
    pixels: torch.Tensor


@dataclass(frozen=True)
class WindowTask:
    """A window with what it starts from.

    prompts: one per frame of the window; given: position in the window → frame, any positions.
    """

    window: Window
    prompts: tuple[str, ...]
    given: Mapping[int, FixedFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowResult:
    """A sampled window; float32 on the CPU.

    latents: (c l h w), scaled; those of given frames bitwise as they were given
    pixels: (3 l H W) in [−1, 1], where they were asked for
    """

    latents: torch.Tensor
    pixels: torch.Tensor | None


def check_given(pipe: "NuwaXLPipeline", given: Mapping[int, FixedFrame]) -> None:
    """Raise NuwaError for what is no frame, and for frames of another size than the pipeline's."""
    factor, height, width = pipe.vae.downsample_factor, pipe.config.height, pipe.config.width
    latent = (pipe.vae.config.latent_channels, height // factor, width // factor)
    for number, frame in given.items():
        if not isinstance(frame, FixedFrame):
            raise NuwaError(f"given frame {number} is a {type(frame).__name__}; give a FixedFrame")
        found = (tuple(frame.latent.shape), tuple(frame.pixels.shape))
        if found != (latent, (3, height, width)):
            raise NuwaError(
                f"given frame {number} has latent {found[0]} and pixels {found[1]}; this pipeline takes {latent} and "
                f"{(3, height, width)}: encode the frame with it, at its size"
            )


def noise_generator(seed: int, purpose: str, level: int, index: int) -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments, so neither on batch, order nor device."""
    key = hashlib.blake2b(f"{seed}/{purpose}/{level}/{index}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(key, "little") >> 1)


def fill_batch(tasks: Sequence[WindowTask], batch: int) -> list[WindowTask]:
    """`tasks` and copies of the first one up to `batch`; their results are to be dropped.

    The kernels then always see one shape, so that a window's result does not depend on its companions.
    """
    return [*tasks, *[tasks[0]] * (batch - len(tasks))]


class WindowSampler:
    """Samples windows of one pipeline with one `Sampling`; keeps the prompts it has encoded.

    NuwaError for a sampler that cannot work with the pipeline's schedule, or for more steps than it has.
    """

    def __init__(self, pipe: "NuwaXLPipeline", sampling: Sampling) -> None:
        self.pipe, self.sampling = pipe, sampling
        check_tiles(pipe, sampling.tile_px)
        # One prompt at a time: in a batch, its last bits would depend on the prompts beside it.
        self._encode = lru_cache(PROMPTS_KEPT)(lambda prompt: pipe.encode_prompts([prompt])[0])
        for steps in _numbers(sampling.steps):
            Sampler(pipe.scheduler, sampling.sampler, steps, torch.device("cpu"))  # to refuse before anything runs

    @torch.no_grad()
    def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[WindowResult]:
        """Reverse diffusion of windows of one level, `batch` at once (the global one alone), each batch padded.

        `pixels` asks for the decoded frames too. A result depends on nothing but its own task, `Sampling` and weights.
        """
        size = self.sampling.batch if tasks[0].window.level else 1
        batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        return [result for batch in batches for result in self._batch(batch, size, pixels)]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (b c l h w) to video (b 3 l H W) in [−1, 1]."""
        return decode_window(self.pipe, latents, self._precision(), self.sampling.tile_px)

    def _precision(self) -> torch.dtype:
        """That of the networks, told by the prompts they encode."""
        return self._encode("").dtype

    def _tokens(self, tasks: Sequence[WindowTask]) -> torch.Tensor:
        """Encoded prompts (b l n d)."""
        return torch.stack([torch.stack([self._encode(prompt) for prompt in task.prompts]) for task in tasks])

    def _batch(self, tasks: Sequence[WindowTask], size: int, pixels: bool) -> list[WindowResult]:
        latents = self._denoise(fill_batch(tasks, size))  # b c l h w
        videos = self.decode(latents).cpu() if pixels else [None] * size
        return [
            WindowResult(row.clone(), None if video is None else video.clone())
            for row, video, _ in zip(latents.cpu(), videos, tasks, strict=False)
        ]

    def _denoise(self, tasks: Sequence[WindowTask]) -> torch.Tensor:
        """Scaled latents (b c l h w) of windows of one level, float32."""
        pipe, sampling, level = self.pipe, self.sampling, tasks[0].window.level
        tokens = self._tokens(tasks).to(pipe.device)  # b l n d
        condition, given, mask = conditioning(pipe, tasks, sampling.condition, tokens.dtype, sampling.tile_px)
        noise, generators = _noise(tasks, sampling.seed, given.shape[1:], pipe.device)
        stride = torch.tensor([task.window.stride for task in tasks], device=pipe.device)
        time_ids = _time_ids(len(tasks), sampling, pipe.device)
        prompted = guided(pipe.denoiser_at(level), _scale(sampling, level, tokens.shape[1]), self._encode(""))
        z_c, known = condition.to(tokens.dtype), mask.to(tokens.dtype)

        def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            """The walk is float32; the networks have their own precision."""
            return prompted(zt.to(tokens.dtype), steps, tokens, z_c, known, stride, time_ids).float()

        sampler = Sampler(pipe.scheduler, sampling.sampler, sampling.steps_at(level), pipe.device)
        return denoise(predict, sampler, noise, given, mask, generators)


def conditioning(
    pipe: "NuwaXLPipeline",
    tasks: Sequence[WindowTask],
    condition: Condition = "pixels",
    dtype: torch.dtype = torch.float32,
    tile_px: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is known of each window (NUWA-XL Sec. 3.2).

    Returns the condition z_c (b c l h w); the latents of given frames (b c l h w), zero elsewhere; and the mask
    (b 1 l h w), 1 where a frame is given. z_c is encoded from pixels in which unknown frames are zero, the paper's, or
    with `latents` the given frames' latents themselves. All float32; `dtype` is what the autoencoder computes in, in
    tiles of `tile_px` where they are asked for.
    """
    z_c = _encoded(pipe, tasks, dtype, tile_px) if condition == "pixels" else None
    given = torch.zeros(_latent_shape(pipe, tasks), device=pipe.device) if z_c is None else torch.zeros_like(z_c)
    mask = torch.zeros_like(given[:, :1])
    for row, task in enumerate(tasks):
        for position, frame in task.given.items():
            given[row, :, position] = frame.latent
            mask[row, :, position] = 1.0
    return given if z_c is None else z_c, given, mask


def _encoded(
    pipe: "NuwaXLPipeline", tasks: Sequence[WindowTask], dtype: torch.dtype, tile_px: int | None
) -> torch.Tensor:
    """z_c (b c l h w): the window encoded with its unknown frames zeroed in pixel space (NUWA-XL Sec. 3.2).

    One window at a time: on black frames the encoder's norms divide by next to nothing and magnify rounding a hundred
    times, so that in a batch the batch size would show in the result (6e-4 on the demo model).
    """
    config, device = pipe.config, torch.device("cpu") if tile_px else pipe.device
    rows: dict[int, torch.Tensor] = {}  # by task: copies that fill a batch are encoded once
    for task in tasks:
        if id(task) in rows:
            continue
        pixels = torch.zeros(1, 3, len(task.prompts), config.height, config.width, device=device, dtype=dtype)
        for position, frame in task.given.items():
            pixels[0, :, position] = frame.pixels
        rows[id(task)] = encode_window(pipe, pixels, dtype, tile_px)  # 1 c l h w
    return torch.cat([rows[id(task)] for task in tasks])


def _latent_shape(pipe: "NuwaXLPipeline", tasks: Sequence[WindowTask]) -> tuple[int, ...]:
    """b c l h w."""
    factor, config = pipe.vae.downsample_factor, pipe.config
    length = len(tasks[0].prompts)
    return len(tasks), pipe.vae.config.latent_channels, length, config.height // factor, config.width // factor


def _scale(sampling: Sampling, level: int, length: int) -> float | torch.Tensor:
    """Guidance at a level: one number, or (l,) where it grows over the frames of a window."""
    first, last = sampling.guidance_at(level), sampling.guidance_last
    return first if last is None or last == first else frame_scales(first, last, length)


def _noise(
    tasks: Sequence[WindowTask], seed: int, shape: torch.Size, device: torch.device
) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Initial noise (b c l h w) and, for stochastic schedulers, the generators that go on from there."""
    windows = [task.window for task in tasks]
    generators = [noise_generator(seed, "window", window.level, window.index) for window in windows]
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.stack(noise).to(device), generators


def _time_ids(rows: int, sampling: Sampling, device: torch.device) -> torch.Tensor:
    """Fps, motion score, noise augmentation (none here) of each window: (b 3), NaN = not known."""
    motion = math.nan if sampling.motion_score is None else sampling.motion_score
    return torch.tensor([[sampling.fps, motion, 0.0]] * rows, device=device)
