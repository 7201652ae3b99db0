"""The contrastive loss (Hadsell et al., CVPR 2006), as HOW trains with it."""

import torch
from torch import Tensor


def contrastive_loss(query: Tensor, positive: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """½·D²(query, positive) + Σ ½·max(0, m − D(query, negative))².

    Args:
        query: L2-normalised descriptor [D].
        positive: descriptor [D] of the same place.
        negatives: descriptors [n, D] of other places.
        margin: m, the distance from which a negative no longer counts.

    Returns:
        a scalar: the sum over the tuple.
    """
    pulled = 0.5 * distance(query, positive).square()
    pushed = 0.5 * (margin - distance(query.unsqueeze(0), negatives)).clamp(min=0).square()
    return pulled + pushed.sum()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance along the last axis; the small shift keeps its gradient finite at 0."""
    return torch.linalg.vector_norm(a - b + 1e-6, dim=-1)
