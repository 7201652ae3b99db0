"""Attention: how strong a position is (HOW, eq. 6)."""

from torch import Tensor


def attention(features: Tensor) -> Tensor:
    """The L2 norm of every position's feature vector: [B, C, h, w] → [B, h, w]."""
    return (features.square().sum(dim=1) + 1e-10).sqrt()
