"""PCA whitening: a linear map from backbone channels to D dimensions, learned before training and then frozen."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MIN_VARIANCE = 1e-6  # of the largest: directions without variance are not amplified


class Whitening(nn.Module):
    """o(·) of HOW: a 1×1 convolution, channels C → D at every position. Frozen: HOW trains with it in place."""

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, dimensions, 1)
        self.projection.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → [B, D, h, w]."""
        return self.projection(features)

    @torch.no_grad()
    def learn(self, moments: "Moments", shrinkage: float = 1.0) -> None:
        """Sets the projection to the PCA whitening of the features that ``moments`` have seen."""
        mean, directions = pca_whitening(moments, self.projection.out_channels, shrinkage)
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
