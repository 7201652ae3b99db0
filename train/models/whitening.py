"""Whitening: a linear map from backbone channels to D dimensions, learned without gradients.

By PCA, as HOW has it, or from pairs of features that show the same point.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MIN_VARIANCE = 1e-6  # of the largest: directions without variance are not amplified
MIN_WITHIN = 1e-3  # of the mean variance of a channel: what few pairs show no change in may change yet


class Whitening(nn.Module):
    """o(·) of HOW: a 1×1 convolution, channels C → D at every position. No gradient changes it (HOW)."""

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, dimensions, 1)
        self.projection.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → [B, D, h, w]."""
        return self.projection(features)

    @torch.no_grad()
    def learn(self, moments: "Moments", shrinkage: float = 1.0, differences: "Moments | None" = None) -> None:
        """Sets the projection to the PCA whitening of features, or to the one learned from the differences of pairs."""
        dimensions = self.projection.out_channels
        if differences is None:
            mean, directions = pca_whitening(moments, dimensions, shrinkage)
        else:
            mean, directions = pair_whitening(moments, differences, dimensions)
        self.projection.weight.copy_(torch.from_numpy(directions)[:, :, None, None])
        self.projection.bias.copy_(torch.from_numpy(-directions @ mean))  # type: ignore[union-attr]


class Moments:
    """Mean and covariance of features, summed in parts, so that millions of features need not fit in memory."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = np.zeros(channels)
        self.products = np.zeros((channels, channels))

    def add(self, features: NDArray[np.float32]) -> None:
        """Features, float [n, C]."""
        samples = features.astype(np.float64)
        self.count += len(samples)
        self.sum += samples.sum(axis=0)
        self.products += samples.T @ samples

    @classmethod
    def total(cls, parts: Iterable["Moments"]) -> "Moments":
        """The moments of all features of the parts."""
        parts = list(parts)
        total = cls(len(parts[0].sum))
        for part in parts:
            total.count += part.count
            total.sum += part.sum
            total.products += part.products
        return total

    @property
    def mean(self) -> NDArray[np.float64]:
        """[C]."""
        return self.sum / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """[C, C]."""
        return self.products / self.count - np.outer(self.mean, self.mean)

    @property
    def rank(self) -> int:
        """The number of directions in which the features differ."""
        variances = np.linalg.eigvalsh(self.covariance)
        return int((variances > MIN_VARIANCE * max(float(variances[-1]), 1e-12)).sum())


def pca_whitening(
    moments: Moments, dimensions: int, shrinkage: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PCA whitening with shrinkage (Mukundan et al., IJCV 2019; HOW uses shrinkage 1).

    Args:
        moments: of the features.
        dimensions: D ≤ C, the leading directions to keep.
        shrinkage: s in λ^(−s/2): 1 whitens in full, 0 only rotates.

    Returns:
        the mean [C] and the projection [D, C], for whitened = projection · (x − mean).
    """
    variances, directions = np.linalg.eigh(moments.covariance)
    leading = np.argsort(variances)[::-1][:dimensions]
    kept = np.maximum(variances[leading], MIN_VARIANCE * max(float(variances.max()), 1e-12))
    return moments.mean, (directions[:, leading] * kept ** (-shrinkage / 2)).T


def pair_whitening(
    moments: Moments, differences: Moments, dimensions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whitening learned from pairs of features of the same point (Mikolajczyk & Matas, ICCV 2007).

        C_S = Σ (x − y)(x − y)ᵀ / 2n over n pairs        P = eig_D(C_S^−½ · C · C_S^−½)ᵀ · C_S^−½

    PCA whitening gives all directions the same variance. This one gives it to what changes at a point from view to
    view, and keeps the directions in which features differ most beside that.

    Args:
        moments: of all features; C is their covariance.
        differences: x − y of each pair.
        dimensions: D ≤ C, the leading directions to keep.

    Returns:
        the mean [C] and the projection [D, C], for whitened = projection · (x − mean).
    """
    within = differences.products / (2 * differences.count)
    variances, directions = np.linalg.eigh(within)
    floor = MIN_WITHIN * max(float(np.trace(moments.covariance)) / len(within), 1e-12)
    root = (directions * np.maximum(variances, floor) ** -0.5) @ directions.T
    ratios, leading = np.linalg.eigh(root @ moments.covariance @ root)
    return moments.mean, leading[:, np.argsort(ratios)[::-1][:dimensions]].T @ root
