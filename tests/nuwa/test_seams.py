"""Seams and sharpness in closed form: videos whose second difference and gradient are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nuwa.evaluate.seams import (
    Seams,
    gradient_energy,
    jitter,
    made_at,
    near_changes,
    pooled,
    seams,
    second_differences,
)
from nuwa.hierarchy import NuwaError, num_frames

LENGTH = 5
FRAMES = num_frames(LENGTH, 2)  # 17: keyframes 0, 4, 8, 12, 16


def video_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A grey level per frame, (n,) → frames (n 3 4 3)."""
    return np.broadcast_to(values[:, None, None, None], (len(values), 3, 4, 3))


def test_a_video_linear_in_time_has_no_second_difference() -> None:
    linear = video_of(np.linspace(0.0, 1.0, FRAMES))
    np.testing.assert_allclose(second_differences(linear), 0.0, atol=1e-15)


def test_a_video_quadratic_in_time_has_ratio_one() -> None:
    """x = n²/N² has the second difference 2/N² everywhere."""
    curve = (np.arange(FRAMES) / FRAMES) ** 2
    np.testing.assert_allclose(second_differences(video_of(curve)), 2 / FRAMES**2, atol=1e-14)
    (found,) = seams(video_of(curve), LENGTH)
    assert found.ratio == pytest.approx(1.0)
    assert (len(found.keyframes), len(found.interior)) == (3, 12)


def test_a_break_at_keyframes_is_their_ratio() -> None:
    """Linear in every window with slopes ±a, so nothing inside; a quadratic b n² adds 2b everywhere."""
    slope, bend = 0.01, 0.001
    saw = np.abs((np.arange(FRAMES) + 4) % 8 - 4)  # 0 1 2 3 4 3 2 1 0 …: turns by ∓2 at every keyframe
    values = 0.3 + slope * saw + bend * np.arange(FRAMES) ** 2
    (found,) = seams(video_of(values), LENGTH)
    np.testing.assert_allclose(found.interior, 2 * bend, atol=1e-12)
    np.testing.assert_allclose(
        np.sort(found.keyframes), [2 * slope - 2 * bend, 2 * slope - 2 * bend, 2 * slope + 2 * bend]
    )
    assert found.ratio == pytest.approx((2 * slope - 2 * bend / 3) / (2 * bend))


def test_a_break_inside_windows_is_no_seam() -> None:
    values = np.zeros(FRAMES)
    values[[2, 6, 10, 14]] = 0.5
    (found,) = seams(video_of(values), LENGTH)
    assert found.ratio == 0.0


def test_a_still_video_has_ratio_one_and_a_jump_alone_at_keyframes_infinity() -> None:
    still = video_of(np.full(FRAMES, 0.5))
    assert seams(still, LENGTH)[0].ratio == 1.0
    assert seams(video_of(np.abs((np.arange(FRAMES) + 4) % 8 - 4) / 4), LENGTH)[0].ratio == float("inf")
    assert np.isnan(Seams(0, np.zeros(0), np.ones(3)).ratio)


def test_bytes_and_floats_agree() -> None:
    images = np.random.default_rng(0).integers(0, 256, (FRAMES, 6, 5, 3), dtype=np.uint8)
    assert seams(images, LENGTH)[0].ratio == seams(images / 255.0, LENGTH)[0].ratio
    np.testing.assert_array_equal(gradient_energy(images), gradient_energy(images / 255.0))


def test_keyframes_of_every_level_are_told_apart() -> None:
    made = made_at(65, 5)
    assert (np.flatnonzero(made == 0) == [0, 16, 32, 48, 64]).all()
    assert (np.flatnonzero(made == 1) == [n for n in range(0, 65, 4) if n % 16]).all()
    assert np.bincount(made).tolist() == [5, 12, 48]
    assert made_at(20, 5, depth=3).tolist() == made[:20].tolist()
    values = np.zeros(65)
    values[16::16] = 0.1  # a blink of global keyframes
    values[4] = 0.3  # and of one that the next level made
    above, below = seams(video_of(values), 5)
    assert [(found.level, len(found.keyframes)) for found in (above, below)] == [(0, 3), (1, 12)]
    assert above.keyframes.mean() == pytest.approx(0.2)
    assert below.keyframes.max() == pytest.approx(0.6)


def test_a_change_of_prompt_at_a_keyframe_is_no_seam() -> None:
    values = np.where(np.arange(FRAMES) < 8, 0.0, 1.0) + (np.arange(FRAMES) / 100) ** 2
    prompts = ["beach"] * 8 + ["snow"] * (FRAMES - 8)
    assert seams(video_of(values), LENGTH)[0].ratio > 3
    (found,) = seams(video_of(values), LENGTH, prompts=prompts, margin=1)
    assert found.ratio == pytest.approx(1.0)
    assert (len(found.keyframes), len(found.interior)) == (2, 11)


def test_frames_near_a_change_of_prompt() -> None:
    prompts = ["a"] * 6 + ["b"] * 4
    assert np.flatnonzero(near_changes(prompts, 1)).tolist() == [5, 6]
    assert np.flatnonzero(near_changes(prompts, 3)).tolist() == [3, 4, 5, 6, 7, 8]
    assert not near_changes(["a"] * 9).any()


def test_gradient_energy_of_a_step_and_of_the_same_step_blurred() -> None:
    """One edge of height 1 in a row of 8: energy 1 per row; spread over k pixels: k·(1/k)² = 1/k."""
    sharp = np.repeat([0.0, 1.0], 4)
    blurred = np.clip((np.arange(8) - 1) / 4, 0, 1)  # over 4 pixels
    images = [np.broadcast_to(row[None, :, None], (5, 8, 3)) for row in (sharp, blurred)]
    np.testing.assert_allclose(gradient_energy(images), [1 / 7, 1 / 28])
    turned = [image.swapaxes(0, 1) for image in images]
    np.testing.assert_allclose(gradient_energy(turned), gradient_energy(images))


def test_blur_calms_every_frame_alike_and_shows_in_sharpness_alone() -> None:
    images = np.random.default_rng(1).random((FRAMES, 8, 8, 3))
    blurred = (images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2) + np.roll(images, (1, 1), (1, 2))) / 4
    assert second_differences(blurred).mean() < 0.6 * second_differences(images).mean()
    assert gradient_energy(blurred).mean() < 0.6 * gradient_energy(images).mean()
    assert seams(blurred, LENGTH)[0].ratio == pytest.approx(seams(images, LENGTH)[0].ratio, rel=0.1)


def test_videos_are_pooled_by_frame() -> None:
    one = [Seams(0, np.array([1.0]), np.array([1.0, 1.0]))]
    other = [Seams(0, np.array([3.0, 5.0]), np.array([4.0]))]
    (found,) = pooled([one, other])
    assert found.ratio == pytest.approx(3.0 / 2.0)


def test_what_cannot_be_measured_says_so() -> None:
    with pytest.raises(NuwaError, match="needs 3 frames"):
        second_differences(video_of(np.zeros(2)))
    with pytest.raises(NuwaError, match="16 prompts for 17 frames"):
        seams(video_of(np.zeros(FRAMES)), LENGTH, prompts=["a"] * 16)


def test_jitter_in_every_frame_calms_the_ratio_and_shows_in_jitter() -> None:
    """Alternating ± a adds 4 a to every second difference: the ratio nears 1, the interior grows by as much."""
    curve = (np.arange(FRAMES) / FRAMES) ** 2 / 2
    shaken = 0.25 + curve + 0.1 * (-1.0) ** np.arange(FRAMES)
    shaken[4::4] += 0.02
    real, made = (seams(video_of(values), LENGTH)[0] for values in (curve, shaken))
    assert made.ratio < 1.2
    assert jitter(made, real) > 50
    assert jitter(real, real) == 1.0


def test_jitter_of_still_and_of_missing_interiors() -> None:
    still, moving, missing = (Seams(0, np.ones(2), interior) for interior in (np.zeros(2), np.ones(2), np.ones(0)))
    assert jitter(still, still) == 1.0
    assert jitter(moving, still) == float("inf")
    assert np.isnan(jitter(missing, moving))
    assert np.isnan(jitter(moving, missing))
