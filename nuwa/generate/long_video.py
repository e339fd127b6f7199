"""Diffusion over Diffusion: a global window, then local windows between its frames (NUWA-XL Sec. 3.3)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange

from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.windows import FixedFrame, Sampling, WindowTask, decode, fill_batch, sample_windows
from nuwa.hierarchy import NuwaError, Window, parent, plan

Order = Callable[[Window], object]
OnWindow = Callable[[Window, torch.Tensor], None]

DECODE_OVERLAP = 4
"""Frames that two neighbouring chunks of the final decode share and cross-fade."""


@dataclass(frozen=True)
class _Prompts:
    """tokens: (u n d), each prompt once; rows: the row of every frame of the video."""

    tokens: torch.Tensor
    rows: tuple[int, ...]

    def of(self, window: Window, length: int) -> torch.Tensor:
        """(l n d); frames past the end of a cropped video take the last prompt."""
        last = len(self.rows) - 1
        return self.tokens[[self.rows[min(frame, last)] for frame in window.frames(length)]]


@dataclass(frozen=True)
class _Frames:
    """What is made so far: frame number → latent (c h w), → pixels (3 H W) where a child may need them."""

    latents: dict[int, torch.Tensor]
    pixels: dict[int, torch.Tensor]

    def fix(self, numbers: list[int], latents: torch.Tensor, pixels: torch.Tensor | None) -> None:
        """Add the frames of a window, (c l h w) and (3 l H W); those already there stay as they are."""
        for position, number in enumerate(numbers):
            self.latents.setdefault(number, latents[:, position])
            if pixels is not None:
                self.pixels.setdefault(number, pixels[:, position])


def generate_latents(
    pipe: NuwaXLPipeline,
    prompts: Sequence[str],
    sampling: Sampling,
    depth: int | None = None,
    *,
    order: Order = lambda window: window,
    on_window: OnWindow = lambda window, latents: None,
) -> torch.Tensor:
    """Scaled latents (c n h w) of a video with one prompt per frame.

    A window may start once the two frames at its ends exist; of those ready, the first by `order` go first,
    at most `sampling.batch` at once. The order changes nothing in the result. `on_window` is told of every
    window when it is done, with its latents (c l h w).
    """
    length = pipe.config.window_length
    encoded = _encode(pipe, prompts)
    levels = plan(len(prompts), length, depth)
    frames = _Frames({}, {})
    ready = [levels[0][0]]
    while ready:
        ready.sort(key=order)  # type: ignore[arg-type]
        size = sampling.batch if ready[0].level else 1
        batch, ready = ready[:size], ready[size:]
        tasks = fill_batch([_task(window, encoded, frames, length) for window in batch], size)
        latents = sample_windows(pipe, tasks, sampling)  # b c l h w
        children = [_children(window, levels, length) for window in batch]
        pixels = decode(pipe, latents).cpu() if any(children) else None  # b 3 l H W
        for row, window in enumerate(batch):
            frames.fix(window.frames(length), latents[row].cpu(), None if pixels is None else pixels[row])
            on_window(window, latents[row].cpu())
        ready += [child for family in children for child in family]
    return torch.stack([frames.latents[frame] for frame in range(len(prompts))], dim=1)


def decode_frames(pipe: NuwaXLPipeline, latents: torch.Tensor, overlap: int = DECODE_OVERLAP) -> Iterator[np.ndarray]:
    """Frames, uint8 (H W 3), of scaled latents (c n h w), decoded in chunks of one window.

    Neighbouring chunks share `overlap` frames, which cross-fade: how a frame decodes depends on neighbours.
    """
    num_frames, length = latents.shape[1], pipe.config.window_length
    if not 0 <= overlap < length:
        raise NuwaError(f"overlap {overlap} does not fit chunks of {length} frames; give 0 to {length - 1}")
    starts = _chunk_starts(num_frames, length, overlap)
    shared = latents.new_zeros(3, 0, 1, 1)
    for start, following in zip(starts, [*starts[1:], num_frames], strict=True):
        video = decode(pipe, latents[None, :, start : start + length])[0].cpu()  # 3 l H W
        video = _cross_fade(shared, video)
        shared = video[:, following - start :]
        yield from _as_images(video[:, : following - start])


def _encode(pipe: NuwaXLPipeline, prompts: Sequence[str]) -> _Prompts:
    if not prompts:
        raise NuwaError("a video without prompts cannot be made; give one prompt per frame")
    unique = list(dict.fromkeys(prompts))
    rows = {prompt: row for row, prompt in enumerate(unique)}
    return _Prompts(pipe.encode_prompts(unique), tuple(rows[prompt] for prompt in prompts))


def _task(window: Window, prompts: _Prompts, frames: _Frames, length: int) -> WindowTask:
    """The window with the frames at its two ends; the global window has none."""
    numbers = window.frames(length)
    ends = (0, length - 1) if window.level else ()
    given = {n: FixedFrame(frames.latents[numbers[n]], frames.pixels[numbers[n]]) for n in ends}
    return WindowTask(window, prompts.of(window, length), given)


def _children(window: Window, levels: list[list[Window]], length: int) -> list[Window]:
    if window.level + 1 == len(levels):
        return []
    below = levels[window.level + 1]
    children = below[window.index * (length - 1) : (window.index + 1) * (length - 1)]
    assert all(parent(child, length) == (window, n) for n, child in enumerate(children))
    return children


def _chunk_starts(num_frames: int, length: int, overlap: int) -> list[int]:
    """First frames of chunks that cover the video; the last chunk is moved back so that it is full."""
    last = max(0, num_frames - length)
    return [*range(0, last, length - overlap), last]


def _cross_fade(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """`after` (c t H W), its first k frames faded in over `before` (c k H W); k = 0 changes nothing."""
    count = before.shape[1]
    if count == 0:
        return after
    weight = (torch.arange(count) + 1).div(count + 1)[:, None, None]
    return torch.cat([torch.lerp(before, after[:, :count], weight), after[:, count:]], dim=1)


def _as_images(video: torch.Tensor) -> Iterator[np.ndarray]:
    """(3 t H W) in [−1, 1] to t images."""
    images = rearrange(video, "c t h w -> t h w c").add(1).mul(127.5).round().clamp(0, 255)
    yield from images.to(torch.uint8).numpy()
