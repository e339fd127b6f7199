"""Where segments of super-resolution meet, for a denoiser of closed form: nothing shows."""

import numpy as np
import pytest
import torch

from nuwa.generate import large_video
from nuwa.generate.large_video import Enlarger, Enlarging
from nuwa.generate.multidiffusion import Tiling, cuts
from nuwa.generate.super_resolution import Upsampling
from tests.nuwa import clip_stack
from tests.nuwa.test_multidiffusion import NOISE_ON_CONDITION, covariance, exact_denoiser

FRAMES, SEGMENT, WINDOW, SIDE = 160, 32, 16, 16
SCALE = 0.15
"""From the process, of variance 1, to pixels."""


@pytest.fixture
def made_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments by the best denoiser of a process over time, of which the condition shows all but a little noise."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, FRAMES, 3 * SIDE**2, generator=generator)
    seen = torch.linalg.cholesky(covariance(FRAMES)).float() @ clean + NOISE_ON_CONDITION * noise
    real = large_video.upsample_video

    def exact(_, scheduler, large, prompts, null, upsampling, first):  # type: ignore[no-untyped-def]
        best = exact_denoiser(scheduler.alphas_cumprod.double(), NOISE_ON_CONDITION)

        def denoiser(sample, step, tokens, condition, *_):  # type: ignore[no-untyped-def]
            return best(sample.double(), step, tokens, condition.double()).float()

        part = seen[first : first + large.shape[2]].T.reshape(1, 3, SIDE, SIDE, -1).permute(0, 1, 4, 2, 3)
        return SCALE * real(denoiser, scheduler, part, prompts, null, upsampling, first)

    monkeypatch.setattr(large_video, "upsample_video", exact)


def borders_over_interior() -> tuple[float, float]:
    """Mean squared difference of neighbouring frames where segments begin, and end, over that inside windows."""
    pipe = clip_stack.build(ssr=True)
    pipe.scheduler = type(pipe.scheduler)(clip_sample=False)  # predicts noise, as the denoiser does
    tiling = Tiling(frames=WINDOW, frame_overlap=2, batch=8, weights="ramp")
    upsampling = Upsampling(steps=20, sampler="ddim", noise_augmentation=0.0, tiling=tiling)
    enlarger = Enlarger(pipe, Enlarging(upsampling=upsampling, scale=2, segment=SEGMENT))
    small = [np.zeros((SIDE // 2, SIDE // 2, 3), np.uint8)] * FRAMES
    video = np.stack(list(enlarger.frames(small, ["a red star"] * FRAMES))).astype(float)
    steps = np.square(np.diff(video, axis=0)).mean(axis=(1, 2, 3))
    segments = cuts(FRAMES, SEGMENT, enlarger.enlarging.shared)
    windows = [
        (place.start + cut.start, place.start + cut.stop) for place in segments for cut in cuts(SEGMENT, WINDOW, 2)
    ]
    ends = {frame - 1 for window in windows for frame in window}  # those of segments are among them
    interior = steps[[frame for frame in range(FRAMES - 1) if frame not in ends]].mean()
    begins, stops = [place.start - 1 for place in segments[1:]], [place.stop - 1 for place in segments[:-1]]
    return float(steps[begins].mean() / interior), float(steps[stops].mean() / interior)


@pytest.mark.usefixtures("made_exactly")
def test_where_segments_meet_nothing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    faded = borders_over_interior()
    monkeypatch.setattr(large_video, "cross_fade", lambda before, after: after)  # one segment after the other
    begins, _ = borders_over_interior()
    assert max(faded) <= 1.1
    assert begins >= 1.15
