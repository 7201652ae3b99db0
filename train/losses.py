"""What a tuple of photos is trained on: a loss on global descriptors, one on local matches, or a system's own.

``TupleLoss`` is the module that training steps on: images of a tuple → its loss.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.descriptors import describe_images, feature_maps, feature_sets
from train.models.base import FeatureMap, RetrievalModel


class TupleLoss(nn.Module):
    """The images of a tuple (query, positive, negatives) → its loss, a scalar. The module that DDP wraps."""

    def __init__(self, model: RetrievalModel, kind: str, margin: float) -> None:
        """``kind``: ``match``, ``contrastive``, or one of the model's ``own_losses`` or ``own_set_losses``."""
        super().__init__()
        self.model = model
        self.kind = kind
        self.margin = margin

    def forward(self, images: Sequence[Image]) -> Tensor:
        """RGB uint8 images, each [H, W, 3], of three photos at least."""
        if self.kind == "match":
            maps = feature_maps(self.model, images)
            return match_loss(maps[0], maps[1], maps[2:])
        if self.kind in self.model.own_set_losses:
            of_query, of_positive, *of_negatives = feature_sets(self.model, images)
            return self.model.own_set_losses[self.kind](of_query, of_positive, of_negatives, self.margin)
        query, positive, *negatives = describe_images(self.model, images)
        loss = self.model.own_losses.get(self.kind, contrastive_loss)
        return loss(query, positive, torch.stack(negatives), self.margin)


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
