"""Maximum mean discrepancy with the polynomial kernel of KID, unbiased, with videos as the independent units.

KID (Bińkowski et al. 2018, arXiv 1801.01401) takes k(x, y) = (x·y/d + 1)³ and the unbiased estimator of Gretton et al.
(2012, Lemma 6), so its expectation does not depend on the number of videos, unlike that of the Fréchet distance.

Paper: not used by NUWA-XL; here: beside FID and FVD, because it can be read from few videos. Features of one video
depend on each other, so a kernel between two videos is the mean over their positions, and no pair of one source counts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuwa.hierarchy import NuwaError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


# KID: k(x, y) = (x·y / d + 1)³.
def polynomial_kernel(first: Floats, second: Floats) -> Floats:
    """Kernel of every pair: (n d), (m d) → (n m)."""
    return (first.astype(np.float64) @ second.astype(np.float64).T / first.shape[-1] + 1.0) ** 3


def kernel_at_positions(first: Floats, second: Floats) -> Floats:
    """Kernel of every two videos at every position: (n p d), (m p d) → (p n m)."""
    if first.shape[1:] != second.shape[1:] or first.shape[1] == 0:
        raise NuwaError(f"features of shapes {first.shape} and {second.shape}; give as many positions in both sets")
    return np.stack([polynomial_kernel(first[:, p], second[:, p]) for p in range(first.shape[1])])


@dataclass(frozen=True)
class Kernels:
    """Kernels within and between two sets of videos, and the source that each video comes from.

    within_first: (… n n), within_second: (… m m), between: (… n m)
    first_sources: (n,), second_sources: (m,); videos of one source are not independent
    """

    within_first: Floats
    within_second: Floats
    between: Floats
    first_sources: Counts
    second_sources: Counts

    def mmd(self, first_weights: Counts | None = None, second_weights: Counts | None = None) -> Floats:
        """Unbiased MMD² (Gretton et al. 2012, Lemma 6), (…): it can be negative.

        first_weights: (n,), second_weights: (m,), how often each video counts; a bootstrap draws them. A video drawn
        twice makes no pair with itself, which would bring back the bias that the estimator avoids.
        """
        own = _mean_of_pairs(self.within_first, self.first_sources, first_weights)
        other = _mean_of_pairs(self.within_second, self.second_sources, second_weights)
        first = np.ones(len(self.first_sources)) if first_weights is None else first_weights
        second = np.ones(len(self.second_sources)) if second_weights is None else second_weights
        across = self.between @ second @ first
        return np.asarray(own + other - 2.0 * across / (first.sum() * second.sum()), np.float64)


def kernels(first: Floats, second: Floats, first_sources: Counts, second_sources: Counts) -> Kernels:
    """Kernels of features (n p d) and (m p d) at every position; `mmd` then gives one number per position."""
    within_first, within_second = kernel_at_positions(first, first), kernel_at_positions(second, second)
    return Kernels(within_first, within_second, kernel_at_positions(first, second), first_sources, second_sources)


def polynomial_mmd(first: Floats, second: Floats) -> float:
    """Unbiased MMD² of two sets of independent features, (n d) and (m d): KID without its averaging over subsets."""
    sources = np.arange(len(first)), np.arange(len(second))
    return float(kernels(first[:, None], second[:, None], *sources).mmd()[0])


def _mean_of_pairs(kernel: Floats, sources: Counts, weights: Counts | None) -> Floats:
    """Mean kernel over pairs of videos of different sources: (… n n) → (…); NaN when there is no such pair."""
    counts = np.ones(len(sources), np.int64) if weights is None else weights
    pairs = np.outer(counts, counts) * (sources[:, None] != sources[None, :])
    total = float(pairs.sum())
    if total == 0.0:
        return np.full(kernel.shape[:-2], np.nan)
    return np.asarray((kernel * pairs).sum(axis=(-2, -1)) / total, np.float64)
