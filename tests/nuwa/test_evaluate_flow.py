"""Flicker and warp error on pictures whose motion and flicker are known."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuwa.evaluate.flow import FlowMethod, FlowPair, Step, flicker, flow_pairs, matched, steps, warp_error
from nuwa.hierarchy import NuwaError

Frames = NDArray[np.uint8]


def texture(height: int, width: int, seed: int = 0) -> Frames:
    """Smooth and full of contrast, so that flow has something to hold on to; values 60–190."""
    rough = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.asarray(60 + 130 * smooth, np.uint8)


def shifted(step: int, count: int = 4, size: int = 48) -> Frames:
    """A window that moves over a texture by `step` px a frame."""
    wide = texture(size, size + 8 * count)
    return np.stack([wide[:, 4 + step * n : 4 + step * n + size] for n in range(count)])


def mean(found: list[Step], name: str) -> float:
    return float(np.mean([getattr(step, name) for step in found]))


@pytest.mark.parametrize("method", ["dis", "farneback"])
@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
def test_flow_of_a_shift_is_the_shift_and_warping_undoes_it(method: FlowMethod, axis: int) -> None:
    frames = shifted(3) if axis == 0 else np.ascontiguousarray(shifted(3).swapaxes(1, 2))
    assert np.median(next(flow_pairs(frames, method)).forward[..., axis]) == pytest.approx(-3.0, abs=0.1)
    found = steps(frames, method)
    unwarped = np.square((frames[:-1].astype(float) - frames[1:]) / 255).sum(-1).mean()
    assert len(found) == 3
    assert mean(found, "warp") < 0.02 * unwarped
    assert 0.8 < mean(found, "matched_frac") < (48 - 1) / 48  # what leaves the picture has no match
    assert mean(found, "motion") == pytest.approx(3 / 48, rel=0.1)


def test_warp_error_of_exact_flow_is_the_mean_squared_difference() -> None:
    """No motion, one frame brighter by 51 grey levels = 0.2: three channels of 0.04."""
    before = np.full((20, 20, 3), 100, np.uint8)
    still = np.zeros((20, 20, 2), np.float32)
    assert warp_error(FlowPair(before, before + np.uint8(51), still, still)) == pytest.approx((0.12, 1.0), abs=1e-7)


def test_pixels_that_flow_cannot_match_do_not_count() -> None:
    """The right half says it moves and does not come back."""
    before = np.full((20, 20, 3), 100, np.uint8)
    after = before.copy()
    after[:, 10:] = 200
    forward = np.zeros((20, 20, 2), np.float32)
    forward[:, 10:, 1] = 3.0
    backward = np.zeros_like(forward)
    assert not matched(forward, backward)[:, 10:].any()
    assert warp_error(FlowPair(before, after, forward, backward)) == pytest.approx((0.0, 0.5))


def test_flow_that_leaves_the_frame_matches_nothing() -> None:
    forward = np.full((16, 16, 2), 20.0, np.float32)
    assert not matched(forward, -forward).any()
    pair = FlowPair(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8), forward, -forward)
    assert np.isnan(warp_error(pair)[0])


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flicker_is_the_change_of_what_stands_still(method: FlowMethod) -> None:
    picture = texture(48, 48)
    flickering = np.stack([picture, picture + np.uint8(6), picture, picture + np.uint8(6)])
    found = steps(flickering, method)
    assert [step.flicker for step in found] == pytest.approx([6.0] * 3, abs=0.5)
    assert min(step.static_frac for step in found) > 0.8
    steady = steps(np.stack([picture] * 3), method)
    assert [step.flicker for step in steady] == pytest.approx([0.0, 0.0])


def test_motion_is_no_flicker() -> None:
    """A square travels over a still background: the whole frame changes by more than the static part."""
    frames = np.stack([texture(64, 64)] * 4)
    for n, frame in enumerate(frames):
        frame[24:40, 8 + 4 * n : 24 + 4 * n] = texture(16, 16, seed=1)[:, :, ::-1] // 2 + 120
    found = steps(frames)
    whole = np.abs(frames[:-1].astype(float) - frames[1:]).mean(axis=(1, 2, 3))
    assert all(step.flicker < 0.25 * change for step, change in zip(found, whole, strict=True))
    assert max(step.static_frac for step in steps(shifted(3))) < 0.2


def test_flicker_counts_static_pixels_only() -> None:
    """Half stands still and brightens by 5, the other half moves by a pixel and changes by 90."""
    before, forward = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20, 2), np.float32)
    after = before + np.uint8(5)
    after[:, 10:], forward[:, 10:, 0] = 190, 1.0
    assert flicker(FlowPair(before, after, forward, -forward)) == pytest.approx((5.0, 0.5))
    forward[:] = 1.0
    assert np.isnan(flicker(FlowPair(before, after, forward, -forward))[0])


def test_frames_too_small_for_flow_are_told() -> None:
    with pytest.raises(NuwaError, match="12x20 px are too small"):
        steps(np.zeros((2, 20, 12, 3), np.uint8))
