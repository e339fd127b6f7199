"""The unbiased MMD of KID: its expectation by going through every draw, and what a bootstrap may not break."""

from itertools import product

import numpy as np
import pytest

from nuwa.evaluate.mmd import kernels, polynomial_kernel, polynomial_mmd


def test_kernel_of_kid() -> None:
    """(x·y / d + 1)³, d = 2."""
    first, second = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[3.0, 1.0]])
    assert polynomial_kernel(first, second) == pytest.approx(np.array([[(5 / 2 + 1) ** 3], [1.0]]))


def test_it_is_unbiased_over_every_possible_draw() -> None:
    """The mean over all draws of 3 and 2 from two small populations is the MMD² of the populations, exactly."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(3, 2)), rng.normal(size=(4, 2)) + 0.5
    kernel = polynomial_kernel
    truth = kernel(one, one).mean() + kernel(two, two).mean() - 2 * kernel(one, two).mean()
    draws = [
        polynomial_mmd(one[list(a)], two[list(b)])
        for a in product(range(3), repeat=3)
        for b in product(range(4), repeat=2)
    ]
    assert np.mean(draws) == pytest.approx(truth, rel=1e-12)


def test_sets_of_one_distribution_are_apart_by_nothing_on_average() -> None:
    rng = np.random.default_rng(1)
    values = [polynomial_mmd(rng.normal(size=(6, 3)), rng.normal(size=(6, 3))) for _ in range(3000)]
    assert np.mean(values) == pytest.approx(0.0, abs=4 * np.std(values) / np.sqrt(len(values)))
    assert min(values) < 0.0


def test_it_knows_no_order_and_is_symmetric() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    value = polynomial_mmd(first, second)
    assert polynomial_mmd(rng.permutation(first), rng.permutation(second)) == pytest.approx(value, rel=1e-12)
    assert polynomial_mmd(second, first) == pytest.approx(value, rel=1e-12)
    assert polynomial_mmd(first, second + 5) > value


def test_positions_are_averaged_each_on_its_own() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(6, 4, 3)), rng.normal(size=(5, 4, 3))
    along = kernels(first, second, np.arange(6), np.arange(5)).mmd()
    assert along == pytest.approx([polynomial_mmd(first[:, p], second[:, p]) for p in range(4)], rel=1e-12)


def test_a_video_drawn_twice_makes_no_pair_with_itself() -> None:
    """Weights are counts of a resample; its mean over pairs of different videos is taken by hand here."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(4, 1, 3)), rng.normal(size=(3, 1, 3))
    found = kernels(first, second, np.arange(4), np.arange(3)).mmd(np.array([2, 0, 1, 1]), np.array([1, 2, 0]))
    drawn, others = [0, 0, 2, 3], [0, 1, 1]
    k = polynomial_kernel
    one = np.mean([k(first[a], first[b]) for a in drawn for b in drawn if a != b])
    two = np.mean([k(second[a], second[b]) for a in others for b in others if a != b])
    across = np.mean([k(first[a], second[b]) for a in drawn for b in others])
    assert found[0] == pytest.approx(one + two - 2 * across, rel=1e-12)


def test_clips_of_one_source_make_no_pair() -> None:
    """Copies within a source do not change what other sources say."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(3, 1, 2)), rng.normal(size=(4, 1, 2))
    twice = np.repeat(first, 2, axis=0)
    once = kernels(first, second, np.arange(3), np.arange(4)).mmd()
    assert kernels(twice, second, np.repeat(np.arange(3), 2), np.arange(4)).mmd() == pytest.approx(once, rel=1e-12)
    alone = kernels(twice, second, np.zeros(6, np.int64), np.arange(4)).mmd()
    assert np.isnan(alone).all()
