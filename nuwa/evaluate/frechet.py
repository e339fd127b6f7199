"""Fréchet distance between two sets of features, and its mean over the positions of long videos (Avg-FID, B-FVD-X).

The distance of two Gaussians (Dowson and Landau 1982), used on features by FID (Heusel et al. 2017, arXiv 1706.08500)
and FVD (Unterthiner et al. 2018, arXiv 1812.01717). All in float64, because features of 2048 numbers ask for it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuwa.hierarchy import NuwaError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean and spread of features.

    mean: (d,)
    root: (k d), any matrix with rootᵀ root = the covariance
    """

    mean: Floats
    root: Floats

    @property
    def variance(self) -> float:
        """Trace of the covariance."""
        return float(np.square(self.root).sum())


def gaussian(features: NDArray[np.floating]) -> Gaussian:
    """Mean and covariance (divided by n − 1) of features (n d), n ≥ 2."""
    if features.ndim != 2 or len(features) < 2:
        raise NuwaError(f"features of shape {features.shape}; a covariance needs (n, d) with at least 2 rows")
    if not np.isfinite(features).all():
        raise NuwaError("features hold numbers that are not finite; the feature network or its weights are broken")
    exact = features.astype(np.float64)
    mean = exact.mean(axis=0)
    root = (exact - mean) / np.sqrt(len(exact) - 1)
    if len(root) > root.shape[1]:
        root = np.linalg.qr(root, mode="r")
    return Gaussian(mean, root)


# Dowson and Landau 1982: d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½).
def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet distance, the number called FID and FVD; ≥ 0.

    Published code takes a matrix square root of Σ₁Σ₂, which fails near singular covariances and can turn complex;
    here: the trace is the sum of the square roots of that product's eigenvalues, and these square roots are the
    singular values of R₁R₂ᵀ, where Σ = RᵀR. No eigenvalue is taken of a product, none can be negative.
    """
    if first.mean.shape != second.mean.shape:
        raise NuwaError(f"features of width {len(first.mean)} and {len(second.mean)}; use one network for both")
    cross = float(np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum())
    apart = float(np.square(first.mean - second.mean).sum())
    return max(0.0, apart + first.variance + second.variance - 2.0 * cross)


def frechet_at_positions(first: Floats, second: Floats) -> Floats:
    """Distance at every position, (p,): frame n of all videos against frame n, or block n against block n.

    first: (n p d), second: (m p d), features of p frames or blocks of every video. Positions that all videos of one
    set lack (p = 0) are an error.
    """
    if first.shape[1:] != second.shape[1:] or first.shape[1] == 0:
        raise NuwaError(f"features of shapes {first.shape} and {second.shape}; give as many positions in both sets")
    positions = range(first.shape[1])
    return np.array([frechet_distance(gaussian(first[:, p]), gaussian(second[:, p])) for p in positions])


def pooled_frechet(first: Floats, second: Floats) -> float:
    """Distance between all features of one set and all of the other, whatever their position: (n p d), (m q d)."""
    width = first.shape[-1]
    return frechet_distance(gaussian(first.reshape(-1, width)), gaussian(second.reshape(-1, width)))


@dataclass(frozen=True)
class Directions:
    """The first principal directions of one set of features, to make them narrow enough for a small set.

    mean: (d,), basis: (k d) with orthonormal rows
    """

    mean: Floats
    basis: Floats

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        """Coordinates (… k) of features (… d)."""
        return np.asarray((features - self.mean) @ self.basis.T, np.float64)


def principal_directions(features: NDArray[np.floating], width: int) -> Directions:
    """Directions of greatest variance of features (n d); `width` of them.

    Paper: not used; here: an option, because a covariance of width d needs more than d videos.
    """
    exact = features.astype(np.float64)
    most = min(len(exact) - 1, exact.shape[1])
    if not 1 <= width <= most:
        raise NuwaError(f"feature width {width}: {len(exact)} features of width {exact.shape[1]} allow 1 to {most}")
    mean = exact.mean(axis=0)
    basis = np.linalg.svd(exact - mean, full_matrices=False)[2][:width]
    return Directions(mean, basis)
