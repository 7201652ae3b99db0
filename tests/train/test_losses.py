"""The contrastive loss against its formula."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from train.losses import contrastive_loss

MARGIN = 0.8


def unit_vectors(count: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def by_hand(query: list[float], positive: list[float], negatives: list[list[float]]) -> float:
    total = 0.5 * math.dist(query, positive) ** 2
    for negative in negatives:
        total += 0.5 * max(0.0, MARGIN - math.dist(query, negative)) ** 2
    return total


@pytest.mark.parametrize("closeness", [0.0, 0.7, 3.0], ids=["far negatives", "mixed", "near negatives"])
def test_loss_is_the_formula(closeness: float) -> None:
    query, positive, *negatives = unit_vectors(7)
    near = F.normalize(torch.stack(negatives) + closeness * query, dim=1)
    loss = contrastive_loss(query, positive, near, MARGIN)
    assert float(loss) == pytest.approx(by_hand(query.tolist(), positive.tolist(), near.tolist()), rel=1e-4)


def test_a_negative_beyond_the_margin_does_not_count() -> None:
    query, positive = unit_vectors(2)
    far = (-query).unsqueeze(0).requires_grad_()
    near = F.normalize(query + 0.3 * positive, dim=0).unsqueeze(0).requires_grad_()
    loss = contrastive_loss(query, positive, torch.cat([far, near]), MARGIN)
    loss.backward()
    assert far.grad is not None
    assert near.grad is not None
    assert not far.grad.any()
    assert near.grad.any()
    torch.testing.assert_close(loss, contrastive_loss(query, positive, near, MARGIN))


def test_gradients_pull_the_positive_and_push_the_negative() -> None:
    query, other = unit_vectors(2)
    positive = F.normalize(query + 0.2 * other, dim=0).requires_grad_()
    negative = F.normalize(query - 0.2 * other, dim=0).requires_grad_()
    contrastive_loss(query, positive, negative.unsqueeze(0), MARGIN).backward()
    assert positive.grad is not None
    assert negative.grad is not None
    assert positive.grad @ (query - positive) < 0
    assert negative.grad @ (query - negative) > 0


def test_gradients_are_finite_where_descriptors_are_equal() -> None:
    query = unit_vectors(1)[0].requires_grad_()
    contrastive_loss(query, query.detach(), query.detach().unsqueeze(0), MARGIN).backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()
