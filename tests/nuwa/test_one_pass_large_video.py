"""Super-resolution of any length in segments: the same noise, what is finished is kept, memory follows a segment."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nuwa.diffusion.objective import Denoiser
from nuwa.generate import large_video
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.large_video import Enlarger, Enlarging
from nuwa.generate.multidiffusion import Tiling, cuts
from nuwa.generate.super_resolution import Upsampling, upsample_video
from nuwa.hierarchy import NuwaError
from nuwa.models.ssr import enlarged
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import SIZE

LARGE = 2 * SIZE


def enlarging(segment: int = 5, **changes: object) -> Enlarging:
    upsampling = Upsampling(steps=2, fps=4.0, tiling=Tiling(frames=4, frame_overlap=2, weights="ramp"))
    return Enlarging(**({"upsampling": upsampling, "scale": 2, "segment": segment} | changes))  # type: ignore[arg-type]


def small(frames: int) -> list[np.ndarray]:
    rng = np.random.default_rng(frames)
    return list(rng.integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8))


@pytest.mark.parametrize("latents", [False, True])
def test_one_segment_is_multidiffusion_of_the_whole_video(latents: bool) -> None:
    pipe, frames = clip_stack.build(latents=latents, ssr=True), small(6)
    enlarger = Enlarger(pipe, enlarging(segment=16))
    made = np.stack(list(enlarger.frames(frames, ["a red star"] * 6)))
    assert made.shape == (6, LARGE, LARGE, 3)
    tokens = pipe.encode_prompts(["a red star"])[0].expand(1, 6, -1, -1)
    null, upsampling = pipe.encode_prompts([""])[0], enlarging().upsampling
    video = upsample_video(pipe.ssr, pipe.scheduler, enlarger.large(frames), tokens, null, upsampling)
    if latents:
        with torch.no_grad():
            video = pipe.vae.decode(video[:, :, :4] / pipe.vae.config.scaling_factor)
        made, video = made[:1], video[:, :, :1]  # the first chunk alone
    shown = (video[0].clamp(-1, 1) + 1) * 127.5
    assert np.abs(made - shown.permute(1, 2, 3, 0).round().numpy()).max() <= 1


def test_segments_share_half_of_a_window_and_cross_fade_there(monkeypatch: pytest.MonkeyPatch) -> None:
    enlarger, calls = Enlarger(clip_stack.build(ssr=True), enlarging()), list[tuple[int, torch.Tensor]]()
    real = large_video.upsample_video

    def watched(*inputs):  # type: ignore[no-untyped-def]
        made = real(*inputs)
        calls.append((inputs[6], made[0].clamp(-1, 1)))
        return made

    monkeypatch.setattr(large_video, "upsample_video", watched)
    made = np.stack(list(enlarger.frames(small(12), ["a red star"] * 12)))
    places = cuts(12, 5, 2)
    assert [first for first, _ in calls] == [place.start for place in places] == [0, 3, 6, 7]
    weights = torch.zeros(4, 12)  # of every segment at every frame
    for number, place in enumerate(places):
        shared = 0 if number == 0 else places[number - 1].stop - place.start
        fade = torch.ones(5)
        fade[:shared] = torch.arange(1.0, shared + 1) / (shared + 1)
        weights[:, place] *= 1 - fade
        weights[number, place] = fade
    wanted = torch.zeros(3, 12, LARGE, LARGE)
    for (_, result), place, weight in zip(calls, places, weights, strict=True):
        wanted[:, place] += result * weight[place, None, None]
    assert (weights.sum(dim=0) - 1).abs().max() < 1e-6
    shown = torch.from_numpy(made).permute(3, 0, 1, 2) / 127.5 - 1
    assert (shown - wanted).abs().max() <= 2 / 255 + 1e-6  # rounded when it is kept, and when it is shown


def test_memory_follows_the_segment_and_not_the_length() -> None:
    """No more small frames are read ahead than a segment has; no call sees more than a segment."""
    enlarger, read, given = Enlarger(clip_stack.build(ssr=True), enlarging()), 0, 0

    def counted(frames: list[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    for _ in enlarger.frames(counted(small(14)), ["a red star"] * 14):
        given += 1
        assert read - given < 5
    assert given == 14


def test_finished_segments_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarger, prompts = Enlarger(clip_stack.build(ssr=True), enlarging()), ["a red star"] * 9
    keep = FinishedWindows(tmp_path / "kept", "one")
    stopped = enlarger.frames(small(9), prompts, keep)
    first = [next(stopped) for _ in range(4)]
    whole = np.stack(list(enlarger.frames(small(9), prompts)))
    made = list[int]()
    real = large_video.upsample_video
    monkeypatch.setattr(large_video, "upsample_video", lambda *inputs: made.append(inputs[6]) or real(*inputs))
    again = np.stack(list(enlarger.frames(small(9), prompts, FinishedWindows(tmp_path / "kept", "one"))))
    assert made == [4]  # of the segments at 0, 3, 4
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(np.stack(first), whole[:4])


class _Copies:
    """Knows that the sharp video is the enlarged one, and keeps the condition it saw."""

    def __init__(self, abar: torch.Tensor) -> None:
        self.abar = abar

    def __call__(self, sample, timestep, prompts, condition=None, *_):  # type: ignore[no-untyped-def]
        abar = self.abar[timestep].reshape(-1, 1, 1, 1, 1)
        return (abar.sqrt() * sample - condition) / (1 - abar).sqrt()  # v, for z0 = condition


def test_the_noise_of_a_frame_does_not_depend_on_its_segment() -> None:
    """A network that answers with what it sees, noise augmentation and all, gives the same frames in any segments."""
    pipe = clip_stack.build(ssr=True)
    denoiser: Denoiser = _Copies(pipe.scheduler.alphas_cumprod)
    large = enlarged(torch.rand(1, 3, 9, SIZE, SIZE) - 0.5, LARGE, LARGE)
    tokens = pipe.encode_prompts(["a red star"])[0].expand(1, 9, -1, -1)
    inputs, upsampling = (tokens[0, 0], enlarging().upsampling), enlarging().upsampling
    whole = upsample_video(denoiser, pipe.scheduler, large, tokens, *inputs)
    part = upsample_video(denoiser, pipe.scheduler, large[:, :, 4:], tokens[:, 4:], inputs[0], upsampling, 4)
    assert (whole[:, :, 4:] - part).abs().max() < 1e-5
    other = upsample_video(denoiser, pipe.scheduler, large[:, :, 4:], tokens[:, 4:], inputs[0], upsampling, 5)
    assert (whole[:, :, 4:] - other).abs().max() > 0.1


def test_what_cannot_be_made_larger_is_refused() -> None:
    with pytest.raises(NuwaError, match="segments of 2 frames hold no windows that share 2"):
        enlarging(segment=2)
    with pytest.raises(NuwaError, match="upscale 0 leaves no pixels"):
        enlarging(scale=0)
    with pytest.raises(NuwaError, match="no super-resolution"):
        Enlarger(clip_stack.build(), enlarging())
    with pytest.raises(NuwaError, match="--ssr-tile-px is 9; give a multiple of 2, at least 8"):
        Enlarger(clip_stack.build(latents=True, ssr=True), enlarging(tile_px=9))
