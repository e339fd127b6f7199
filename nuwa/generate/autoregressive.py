"""The baseline that diffusion over diffusion is measured against: window after window, each going on from the last.

Paper: Table 1 compares with FDM*, the same network used autoregressively, and with Phenaki; the overlap is not stated;
here: the first frames of a window are the last `overlap` frames of the one before, given like any other frame, and the
denoiser is that of the local levels, which learned windows of neighbouring frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nuwa.generate.windows import FixedFrame, WindowResult, WindowTask
from nuwa.hierarchy import NuwaError, Window

if TYPE_CHECKING:
    from nuwa.generate.windows import WindowSampler


def autoregressive_windows(num_frames: int, length: int, overlap: int) -> list[Window]:
    """The windows of a video of `num_frames`, in the order they have to run: 1 + ⌈(N − L)/(L − o)⌉ of them.

    Raises NuwaError when the overlap leaves no frame to make.
    """
    if not 0 <= overlap < length:
        raise NuwaError(f"overlap {overlap} does not fit windows of {length} frames; give 0 to {length - 1}")
    if num_frames < 1:
        raise NuwaError(f"{num_frames} frames is no video; ask for at least 1")
    new = length - overlap
    count = 1 + max(0, -(-(num_frames - length) // new))
    return [Window(level=1, index=index, first=index * new, stride=1) for index in range(count)]


def autoregressive(
    sampler: "WindowSampler", prompts: Sequence[str], length: int, overlap: int
) -> Iterator[WindowResult]:
    """Sample a video window after window, yielding the new frames of each: latents (c k h w), pixels (3 k H W).

    sampler: with a batch of 1, since there is never a second window to sample: more rows would only be padding
    prompts: the prompt of every frame; frames past the end of the last window take the last prompt and are dropped
    length: frames of a window; overlap: of these, how many are given by the window before
    """
    given: Mapping[int, FixedFrame] = {}
    for window in autoregressive_windows(len(prompts), length, overlap):
        task = WindowTask(window, _prompts_of(window, prompts, length), given)
        (result,) = sampler.sample([task], pixels=True)
        assert result.pixels is not None, "pixels were asked for"
        given = _last_frames(result, overlap)
        new = slice(overlap if window.index else 0, len(prompts) - window.first)
        yield WindowResult(result.latents[:, new], result.pixels[:, new])


def _prompts_of(window: Window, prompts: Sequence[str], length: int) -> tuple[str, ...]:
    return tuple(prompts[min(frame, len(prompts) - 1)] for frame in window.frames(length))


def _last_frames(result: WindowResult, overlap: int) -> dict[int, FixedFrame]:
    """The last frames of a window as the first ones of the next."""
    assert result.pixels is not None, "pixels were asked for"
    first = result.latents.shape[1] - overlap
    return {n: FixedFrame(result.latents[:, first + n], result.pixels[:, first + n]) for n in range(overlap)}
