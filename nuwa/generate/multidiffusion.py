"""MultiDiffusion over time and space: any denoiser on overlapping windows, joined at every step (Lumiere Sec. 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch

from nuwa.diffusion.objective import Denoiser
from nuwa.hierarchy import NuwaError

Weights = Literal["count", "ramp"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a video is cut into windows; all of them have one size, so that they run as batches.

    frames: of a window; frame_overlap: frames that neighbours share. Paper: 2
    tile: side of a spatial tile in px (or latents), None = whole frames; tile_overlap: px that neighbours share
    batch: windows per denoiser call; together with their size it bounds the memory, whatever the video
    weights: `count`, the paper's: all windows that hold a pixel count alike; `ramp`: each counts less towards its ends,
        over as many frames or px as it shares, which halves what is left of the borders
    """

    frames: int = 16
    frame_overlap: int = 2
    tile: int | None = None
    tile_overlap: int = 8
    batch: int = 4
    weights: Weights = "count"

    def __post_init__(self) -> None:
        _check_overlap("frames", self.frames, self.frame_overlap)
        if self.tile is not None:
            _check_overlap("px", self.tile, self.tile_overlap)
        if self.batch < 1:
            raise NuwaError(f"a batch of {self.batch} windows runs nothing; give at least 1")

    def weight(self, num_frames: int, height: int, width: int) -> torch.Tensor:
        """What each pixel of a window counts, (t h w), for a video of this size."""
        axes = (
            (min(num_frames, self.frames), self.frame_overlap),
            (min(height, self.tile or height), self.tile_overlap if self.tile else 0),
            (min(width, self.tile or width), self.tile_overlap if self.tile else 0),
        )
        times, rows, columns = (ramp(size, overlap if self.weights == "ramp" else 0) for size, overlap in axes)
        return times[:, None, None] * rows[:, None] * columns

    def windows(self, num_frames: int, height: int, width: int) -> list["Cut"]:
        """All windows of a video, in time order. Every pixel of every frame lies in at least one."""
        times = cuts(num_frames, self.frames, self.frame_overlap)
        rows = cuts(height, self.tile or height, self.tile_overlap)
        columns = cuts(width, self.tile or width, self.tile_overlap)
        return [Cut(*place) for place in product(times, rows, columns)]


@dataclass(frozen=True)
class Cut:
    """A window's place in a video (… t h w)."""

    frames: slice
    rows: slice
    columns: slice

    def of(self, video: torch.Tensor) -> torch.Tensor:
        """The view of a video (… t h w) that lies here."""
        return video[..., self.frames, self.rows, self.columns]


def cuts(size: int, window: int, overlap: int) -> list[slice]:
    """Places of `window` frames or px along an axis of `size`, neighbours sharing `overlap`.

    The last one ends with the axis and may share more; an axis shorter than a window is one place.
    """
    if size <= window:
        return [slice(0, size)]
    starts = [*range(0, size - window, window - overlap), size - window]
    return [slice(start, start + window) for start in starts]


def ramp(size: int, overlap: int) -> torch.Tensor:
    """Weights (size,) that rise over the first `overlap` of an axis and fall over the last: 1/3, 2/3, 1, 2/3, 1/3."""
    places = torch.arange(1.0, size + 1.0)
    return torch.minimum(places, places.flip(0)).clamp(max=overlap + 1.0) / (overlap + 1.0)


def multidiffusion(denoiser: Denoiser, tiling: Tiling) -> Denoiser:
    """A denoiser of the same call for videos of any size, which runs `denoiser` on windows only.

    Its prediction is argmin_J Σ_i ‖J|_i − Φ(J_i)‖², the mean over all windows that hold a pixel (Lumiere Sec. 3.2), or
    with weights argmin_J Σ_i ‖w·(J|_i − Φ(J_i))‖² for w² = `Tiling.weight` (Bar-Tal et al. 2023, arXiv 2302.08113).
    Since every sampler calls its denoiser once per step, windows are joined at each step.
    Paper: Φ is the denoised video; here: whatever is predicted, noise, v or video. Given the common noised video each
    is a linear function of the others, so their means stand for the same video.

    A prompt per frame, condition and mask are cut with the video; stride and clip numbers are those of every window.
    """

    def predict(
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        added_time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        total = torch.zeros(sample.shape, dtype=_sum_dtype(sample.dtype), device=sample.device)
        weight, weights = tiling.weight(*sample.shape[2:]).to(total), torch.zeros_like(total[:1, :1])
        windows = tiling.windows(*sample.shape[2:])
        for cut in windows:
            cut.of(weights).add_(weight)
        places = [(row, cut) for cut in windows for row in range(len(sample))]
        for start in range(0, len(places), tiling.batch):
            batch = places[start : start + tiling.batch]
            prediction = denoiser(
                _cut(sample, batch),
                steps[_rows(batch)],
                _cut_prompts(encoder_hidden_states, batch),
                None if condition is None else _cut(condition, batch),
                None if mask is None else _cut(mask, batch),
                None if stride is None else stride[_rows(batch)],
                None if added_time_ids is None else added_time_ids[_rows(batch)],
            )
            for (row, cut), part in zip(batch, prediction, strict=True):
                cut.of(total[row]).add_(part * weight)
        return (total / weights).to(sample.dtype)

    return predict


def _rows(batch: Sequence[tuple[int, Cut]]) -> list[int]:
    """The video that each window of a batch is of."""
    return [row for row, _ in batch]


def _cut(video: torch.Tensor, batch: Sequence[tuple[int, Cut]]) -> torch.Tensor:
    """Windows of videos (b c T H W) as a batch (windows c t h w)."""
    return torch.stack([cut.of(video[row]) for row, cut in batch])


def _cut_prompts(prompts: torch.Tensor, batch: Sequence[tuple[int, Cut]]) -> torch.Tensor:
    """Prompts of the windows' own frames, of (b T n d), or those of their video, of (b n d)."""
    if prompts.ndim == 3:
        return prompts[_rows(batch)]
    return torch.stack([prompts[row, cut.frames] for row, cut in batch])


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Windows are added up in single precision at least."""
    return torch.promote_types(dtype, torch.float32)


def _check_overlap(unit: str, window: int, overlap: int) -> None:
    """Raise NuwaError for windows that do not advance or leave gaps."""
    if not 0 <= overlap < window:
        raise NuwaError(
            f"windows of {window} {unit} cannot share {overlap} with their neighbours; give from 0 to {window - 1}"
        )
