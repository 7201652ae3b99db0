"""The losses against their formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from train.descriptors import batch_for, feature_maps
from train.losses import (
    SELECTION_WIDTH,
    TEMPERATURE,
    TupleLoss,
    contrastive_loss,
    match_loss,
    match_score,
)
from train.models.base import FeatureMap
from train.models.how import HowConfig, HowNetwork
from train.models.local_model import global_descriptor

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


def features_of(seed: int, height: int = 3, width: int = 4) -> FeatureMap:
    random = torch.Generator().manual_seed(seed)
    return FeatureMap(
        torch.randn(6, height, width, generator=random), torch.rand(height, width, generator=random) + 0.1
    )


def selection_by_hand(strengths: list[float]) -> list[float]:
    """Sigmoid of how far the logarithm lies above the median's, in units of the soft selection's width."""
    logs = sorted(map(math.log, strengths))
    middle = len(logs) // 2
    median = (logs[middle] + logs[~middle]) / 2
    return [1 / (1 + math.exp(-(math.log(s) - median) / SELECTION_WIDTH)) for s in strengths]


def score_by_hand(a: FeatureMap, b: FeatureMap) -> float:
    x, y = ([v / v.norm() for v in side.descriptors.flatten(1).T] for side in (a, b))
    w_a, w_b = (selection_by_hand(side.strengths.flatten().tolist()) for side in (a, b))
    similarity = [
        [max(float(u @ v), 0) ** 3 * p * q for v, q in zip(y, w_b, strict=True)] for u, p in zip(x, w_a, strict=True)
    ]
    best = sum(map(max, similarity)) + sum(map(max, zip(*similarity, strict=True)))
    return best / 2 / math.sqrt(sum(w_a) * sum(w_b))


def test_match_score_is_the_sum_of_best_matches() -> None:
    a, b = features_of(0), features_of(1, 5, 2)
    assert float(match_score(a, b)) == pytest.approx(score_by_hand(a, b), rel=1e-4)
    assert float(match_score(a, b)) == pytest.approx(float(match_score(b, a)), rel=1e-5)


def test_match_loss_is_a_softmax_over_scores() -> None:
    query, positive, *negatives = (features_of(seed) for seed in range(4))
    scores = [score_by_hand(query, other) / TEMPERATURE for other in (positive, *negatives)]
    expected = math.log(sum(map(math.exp, scores))) - scores[0]
    assert float(match_loss(query, positive, negatives)) == pytest.approx(expected, rel=1e-3)


def test_match_loss_is_small_where_the_positive_is_the_query_itself() -> None:
    query, *negatives = (features_of(seed) for seed in range(4))
    assert float(match_loss(query, query, negatives)) < 0.01
    assert float(match_loss(query, negatives[0], [query])) > 1


def test_match_loss_teaches_strengths_and_descriptors() -> None:
    query, positive, negative = (features_of(seed) for seed in range(3))
    leaves = [tensor.requires_grad_() for tensor in query]
    match_loss(query, positive, [negative]).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() > 0


def test_a_loss_sees_the_positions_that_a_search_may_take(tiny_config: HowConfig) -> None:
    """Of a map of 10 × 12 positions, those a stride from the border: 8 × 10 but for rounding at the far sides."""
    model = HowNetwork(tiny_config).eval()
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    batch = batch_for(model, [image])
    whole = model.feature_maps(batch)
    eligible = model.eligible(whole.strengths, batch)
    (seen,) = feature_maps(model, [image])
    assert seen.strengths.numel() == int(eligible.sum()) < eligible.numel()
    torch.testing.assert_close(seen.strengths.flatten(), whole.strengths[0][eligible])
    torch.testing.assert_close(seen.descriptors.flatten(1), whole.descriptors[0][:, eligible])


@pytest.mark.parametrize("kind", HowNetwork.losses)
def test_a_tuple_of_images_has_a_loss_whatever_their_sizes(kind: str, tiny_config: HowConfig) -> None:
    torch.manual_seed(0)
    model = HowNetwork(tiny_config).eval()
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*side, 3), dtype=np.uint8) for side in ((36, 48), (48, 36), (36, 48), (40, 40))]
    loss = TupleLoss(model, kind, MARGIN)(images)
    if kind == "match":
        local = feature_maps(model, images)
        expected = match_loss(local[0], local[1], local[2:])
    else:
        maps = (model.feature_maps(batch_for(model, [image])) for image in images)
        query, positive, *negatives = (global_descriptor(of_image)[0] for of_image in maps)
        expected = contrastive_loss(query, positive, torch.stack(negatives), MARGIN)
    torch.testing.assert_close(loss, expected)
