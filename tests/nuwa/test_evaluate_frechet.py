"""Fréchet distance against closed forms, and what must not change it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nuwa.evaluate.frechet import (
    Gaussian,
    frechet_at_positions,
    frechet_distance,
    gaussian,
    pooled_frechet,
    principal_directions,
)
from nuwa.hierarchy import NuwaError

Floats = NDArray[np.float64]


def draw(rng: np.random.Generator, count: int, width: int) -> Floats:
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def with_moments(mean: Floats, covariance: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Features whose sample mean and covariance are exactly these."""
    raw = rng.normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / (count - 1))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_one_dimension_is_the_difference_of_means_and_deviations() -> None:
    first = Gaussian(np.array([1.0]), np.array([[2.0]]))
    second = Gaussian(np.array([4.0]), np.array([[7.0]]))
    assert frechet_distance(first, second) == pytest.approx((4 - 1) ** 2 + (7 - 2) ** 2, abs=1e-12)


def test_commuting_covariances() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    variances = rng.uniform(0.1, 4.0, (2, 5))
    means = rng.normal(size=(2, 5))
    features = [
        with_moments(mean, basis @ np.diag(variance) @ basis.T, 40, rng)
        for mean, variance in zip(means, variances, strict=True)
    ]
    expected = np.square(means[0] - means[1]).sum() + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    assert frechet_distance(*map(gaussian, features)) == pytest.approx(expected, rel=1e-10)


def test_two_dimensions_that_do_not_commute() -> None:
    """tr √M = √(tr M + 2 √det M) for a 2×2 matrix M = Σ₁Σ₂."""
    rng = np.random.default_rng(1)
    one, two = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    product = one @ two
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 9.0 + np.trace(one) + np.trace(two) - 2 * root_trace
    first, second = with_moments(np.zeros(2), one, 30, rng), with_moments(np.array([0.0, 3.0]), two, 50, rng)
    assert frechet_distance(gaussian(first), gaussian(second)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [6, 40], ids=["fewer rows than columns", "more"])
def test_it_is_the_formula_with_a_matrix_square_root(count: int) -> None:
    """Σ₁^½ Σ₂ Σ₁^½ has a symmetric square root, with the same trace as that of Σ₁Σ₂."""
    rng = np.random.default_rng(2)
    first, second = draw(rng, count, 12), draw(rng, count + 3, 12)
    one, two = np.cov(first.T), np.cov(second.T)
    values, vectors = np.linalg.eigh(one)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one) + np.trace(two) - 2 * cross
    assert frechet_distance(gaussian(first), gaussian(second)) == pytest.approx(expected, rel=1e-6)


def test_it_is_a_distance_and_knows_no_order_and_no_rotation() -> None:
    rng = np.random.default_rng(3)
    first, second = draw(rng, 50, 6), draw(rng, 40, 6)
    value = frechet_distance(gaussian(first), gaussian(second))
    turn, shift = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.normal(size=6)
    assert frechet_distance(gaussian(first), gaussian(first)) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(gaussian(second), gaussian(first)) == pytest.approx(value, rel=1e-12)
    assert frechet_distance(gaussian(rng.permutation(first)), gaussian(second)) == pytest.approx(value, rel=1e-12)
    turned = gaussian(first @ turn + shift), gaussian(second @ turn + shift)
    assert frechet_distance(*turned) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(gaussian(3 * first), gaussian(3 * second)) == pytest.approx(9 * value, rel=1e-12)


def test_single_precision_features_are_judged_in_double() -> None:
    rng = np.random.default_rng(4)
    first, second = (1000.0 + 1e-2 * rng.normal(size=(200, 4))).astype(np.float32), 1000.0 + rng.normal(size=(90, 4))
    exact = frechet_distance(gaussian(first.astype(np.float64)), gaussian(second))
    assert frechet_distance(gaussian(first), gaussian(second)) == exact


def test_avg_fid_compares_equal_frame_numbers_and_pooling_forgets_them() -> None:
    """Two sets with the same frames in another order: nothing apart when pooled, far apart number by number."""
    rng = np.random.default_rng(5)
    frames = rng.normal(size=(60, 2, 3)) + np.array([[[0.0] * 3, [10.0] * 3]])
    swapped = frames[:, ::-1]
    assert pooled_frechet(frames, swapped) == pytest.approx(0.0, abs=1e-8)
    assert frechet_at_positions(frames, frames) == pytest.approx([0.0, 0.0], abs=1e-9)
    assert frechet_at_positions(frames, swapped) == pytest.approx([300.0, 300.0], rel=0.2)


def test_the_bias_falls_with_the_number_of_videos() -> None:
    """Both sets from one distribution: the true distance is 0, the estimate is not, and about halves when n doubles."""
    rng = np.random.default_rng(6)
    few, many = (np.mean([pooled_frechet(*rng.normal(size=(2, n, 1, 8))) for _ in range(30)]) for n in (50, 100))
    assert few > 0.5
    assert few / many == pytest.approx(2.0, rel=0.15)


def test_principal_directions_keep_what_varies_most() -> None:
    rng = np.random.default_rng(7)
    features = rng.normal(size=(80, 5)) * np.array([5.0, 4.0, 0.0, 0.0, 0.0]) + 2.0
    kept = principal_directions(features, 2)(features)
    assert kept.shape == (80, 2)
    assert np.var(kept, axis=0, ddof=1).sum() == pytest.approx(np.var(features, axis=0, ddof=1).sum(), rel=1e-12)
    assert kept.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_wrong_features_are_told() -> None:
    rng = np.random.default_rng(8)
    with pytest.raises(NuwaError, match="at least 2 rows"):
        gaussian(rng.normal(size=(1, 4)))
    with pytest.raises(NuwaError, match="not finite"):
        gaussian(np.array([[1.0], [np.nan]]))
    with pytest.raises(NuwaError, match="width 3 and 4"):
        frechet_distance(gaussian(rng.normal(size=(9, 3))), gaussian(rng.normal(size=(9, 4))))
    with pytest.raises(NuwaError, match="as many positions"):
        frechet_at_positions(rng.normal(size=(9, 2, 3)), rng.normal(size=(9, 3, 3)))
    with pytest.raises(NuwaError, match="allow 1 to 3"):
        principal_directions(rng.normal(size=(9, 3)), 4)
