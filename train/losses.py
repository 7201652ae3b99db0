"""What photos are trained on: a loss of a tuple, on global descriptors or local matches, a system's own, or of a list.

The module that training steps on is ``TupleLoss``, images of a tuple → its loss, or, for a loss of a list,
``DescriptorGradient``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.descriptors import compared_images, describe_images, feature_maps
from train.models.base import FeatureMap, RetrievalModel

LIST_LOSS = "ap"  # the one that is not of a tuple


class TupleLoss(nn.Module):
    """The images of a tuple (query, positive, negatives) → its loss, a scalar. The module that DDP wraps."""

    def __init__(self, model: RetrievalModel, kind: str, margin: float) -> None:
        """``kind``: ``match``, ``contrastive``, or one of the model's ``own_losses``."""
        super().__init__()
        self.model = model
        self.kind = kind
        self.margin = margin

    def forward(self, images: Sequence[Image]) -> Tensor:
        """RGB uint8 images, each [H, W, 3], of three photos at least."""
        if self.kind == "match":
            maps = feature_maps(self.model, images)
            return match_loss(maps[0], maps[1], maps[2:])
        if self.kind in self.model.own_losses:
            return self.model.own_losses[self.kind](compared_images(self.model, images), self.margin)
        query, positive, *negatives = describe_images(self.model, images)
        return contrastive_loss(query, positive, torch.stack(negatives), self.margin)


def contrastive_loss(query: Tensor, positive: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """½·D²(query, positive) + Σ ½·max(0, m − D(query, negative))² (Hadsell et al., CVPR 2006; HOW §3.2).

    Args:
        query: L2-normalised descriptor [D], or several [k, D].
        positive: descriptors of the same place, in the same shape.
        negatives: descriptors [n, D] of other places, or [n, k, D].
        margin: m, the distance from which a negative no longer counts.

    Returns:
        a scalar: the sum over the tuple.
    """
    pulled = 0.5 * distance(query, positive).square()
    pushed = 0.5 * (margin - distance(query.unsqueeze(0), negatives)).clamp(min=0).square()
    return pulled.sum() + pushed.sum()


def triplet_loss(query: Tensor, positive: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Σ max(0, ‖q − p‖² − ‖q − n‖² + m) over the negatives n (Schroff et al., CVPR 2015), a scalar.

    The arguments are those of ``contrastive_loss``; the margin is one of squared distances.
    """
    apart = (query - negatives).square().sum(dim=1)
    return ((query - positive).square().sum() - apart + margin).clamp(min=0).sum()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance along the last axis; a small shift keeps its gradient finite at 0."""
    return torch.linalg.vector_norm(a - b + 1e-6, dim=-1)


BINS = 25  # of the similarities from 1 to 0, as the authors' code has them


class DescriptorGradient(nn.Module):
    """Images, and the gradient of a loss at their descriptors → Σ ⟨descriptor, gradient⟩, which has the same gradient.

    A loss of more photos than fit into memory with all that their gradients need is learned in three stages (Revaud et
    al., ICCV 2019, §4.2): the descriptors of all photos, without gradients; the loss and its gradient at them; and the
    photos again, a few at a time, each with its own part of that gradient.
    """

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Sequence[Image], gradient: Tensor) -> Tensor:
        """RGB uint8 images, each [H, W, 3], and the gradient at their descriptors, [n, D]."""
        return (describe_images(self.model, images) * gradient).sum()


def average_precision_loss(descriptors: Tensor, positive: Tensor, ranked: Tensor) -> Tensor:
    """1 − the mean average precision of photos that query each other, with bins for ranks (Revaud et al., ICCV 2019).

        c_i = Σ_x δ_i(s_x)    c⁺_i = Σ_positives δ_i(s_x)    AP = Σ_i (Σ_{j≤i} c⁺_j / Σ_{j≤i} c_j) · c⁺_i / Σ_j c⁺_j

    δ_i is the triangle around 1 − i / (BINS − 1), as wide as two bins, of the similarities s_x of what is ranked; all
    below 0 are in the last bin. It is the histogram that makes ranks differentiable.

    Args:
        descriptors: L2-normalised, [n, D].
        positive: bool [n, n], whether two photos show the same place.
        ranked: bool [n, n], which photos (columns) are ranked by a query (row): not the query itself.

    Returns:
        a scalar, the mean over the queries that rank a positive.
    """
    similarity = descriptors @ descriptors.T
    place = (1 - similarity.clamp(0, 1)) * (BINS - 1)  # among the bins, 0 the most similar
    bins = torch.arange(BINS, device=place.device)[:, None, None]
    share = (1 - (place - bins).abs()).clamp(min=0) * ranked
    of_all, of_positives = share.sum(dim=2), (share * positive).sum(dim=2)  # [BINS, n]
    precision = of_positives.cumsum(dim=0) / of_all.cumsum(dim=0).clamp(min=1e-6)
    positives = of_positives.sum(dim=0)
    average = (precision * of_positives).sum(dim=0) / positives.clamp(min=1e-6)
    return 1 - average[(positive & ranked).any(dim=1)].mean()


SELECTIVITY = 3.0  # α of ASMK
KEPT = 0.5  # share of a photo's positions that a search would keep, at one scale
SELECTION_WIDTH = 0.2  # of the soft selection, in units of log attention
TEMPERATURE = 0.02  # of the softmax over scores, which lie between 0 and about 0.3


def match_loss(query: FeatureMap, positive: FeatureMap, negatives: Sequence[FeatureMap]) -> Tensor:
    """−log softmax of the positive's match score among the positive's and the negatives'.

    Retrieval is measured by the order of match scores, and single features decide that order. The sum over the whole
    photo that HOW trains on shows neither.

    Args:
        query, positive, negatives: maps of single photos, descriptors [D, h, w] and strengths [h, w].

    Returns:
        a scalar.
    """
    scores = torch.stack([match_score(query, other) for other in (positive, *negatives)])
    return F.cross_entropy(scores.unsqueeze(0) / TEMPERATURE, scores.new_zeros(1, dtype=torch.long))


def match_score(a: FeatureMap, b: FeatureMap) -> Tensor:
    """ASMK's kernel made differentiable, a scalar: every feature adds its best match on the other side, s^α.

    The best match replaces the visual word, a soft selection w the K strongest, and the cosine the signs:
    ½·Σ_i w_i·max_j w_j·s_ij^α, the same from b to a, over √Σw_a·√Σw_b.
    """
    w_a, w_b = soft_selection(a.strengths.flatten()), soft_selection(b.strengths.flatten())
    x, y = (F.normalize(side.descriptors.flatten(1), dim=0, eps=1e-4) for side in (a, b))
    similarity = (x.T @ y).clamp(min=0) ** SELECTIVITY * w_a[:, None] * w_b
    return (similarity.amax(dim=1).sum() + similarity.amax(dim=0).sum()) / 2 / (w_a.sum() * w_b.sum()).sqrt()


def soft_selection(strengths: Tensor) -> Tensor:
    """How certainly each of n positions is among the strongest, [n] in (0, 1): a step with a gradient."""
    log = strengths.log()
    threshold = log.detach().quantile(1 - KEPT)
    return torch.sigmoid((log - threshold) / SELECTION_WIDTH)
