"""Whitening: what it makes of the features that it was learned on."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from train.models.whitening import Moments, Whitening, pair_whitening, pca_whitening


def correlated_features(count: int = 500, channels: int = 8, rank: int = 8) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    return (random.normal(size=(count, rank)) @ random.normal(size=(rank, channels)) + 3).astype(np.float32)


def moments_of(*parts: NDArray[np.float32]) -> Moments:
    moments = Moments(parts[0].shape[1])
    for part in parts:
        moments.add(part)
    return moments


def whitened(features: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Features through a whitening learned on them, as one map [1, C, 1, n]."""
    whitening = Whitening(features.shape[1], dimensions)
    whitening.learn(moments_of(features))
    return whitening(torch.from_numpy(features.T[None, :, None, :].copy()))[0, :, 0].numpy().T


@pytest.mark.parametrize("dimensions", [8, 3])
def test_training_features_come_out_with_mean_0_and_unit_covariance(dimensions: int) -> None:
    out = whitened(correlated_features(), dimensions)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(out.T, bias=True), np.eye(dimensions), atol=1e-3)


def test_the_directions_of_most_variance_are_kept() -> None:
    features = correlated_features() * np.float32(0.01)
    features[:, 5] += np.random.default_rng(1).normal(0, 9, len(features)).astype(np.float32)
    kept = whitened(features, 1)[:, 0]
    assert abs(np.corrcoef(kept, features[:, 5])[0, 1]) > 0.999


def test_without_shrinkage_distances_are_kept() -> None:
    features = correlated_features()
    mean, directions = pca_whitening(moments_of(features), 8, shrinkage=0.0)
    rotated = (features - mean) @ directions.T
    np.testing.assert_allclose(
        np.linalg.norm(rotated[1:] - rotated[:-1], axis=1),
        np.linalg.norm(features[1:] - features[:-1], axis=1),
        rtol=1e-5,
    )


def test_moments_gathered_in_parts_equal_those_gathered_at_once() -> None:
    features = correlated_features()
    at_once = moments_of(features)
    in_parts = moments_of(features[:10], features[10:10], features[10:])
    by_processes = Moments.total([moments_of(features[:333]), moments_of(features[333:])])
    for moments in (in_parts, by_processes):
        assert moments.count == at_once.count
        np.testing.assert_allclose(moments.mean, at_once.mean, rtol=1e-10)
        np.testing.assert_allclose(moments.covariance, at_once.covariance, rtol=1e-8)
    np.testing.assert_allclose(at_once.covariance, np.cov(features.T, bias=True), rtol=1e-4)


@pytest.mark.parametrize("rank", [0, 3])
def test_directions_in_which_features_do_not_vary_are_not_blown_up(rank: int) -> None:
    out = whitened(correlated_features(rank=rank), 8)
    assert np.isfinite(out).all()
    spread = out.std(axis=0)
    np.testing.assert_allclose(spread[:rank], 1, atol=1e-2)
    assert (spread[rank:] < 0.1).all()


def test_whitening_is_frozen() -> None:
    whitening = Whitening(8, 4)
    assert not any(parameter.requires_grad for parameter in whitening.parameters())
    features = torch.rand(1, 8, 2, 2, requires_grad=True)
    whitening(features).sum().backward()
    assert features.grad is not None
    assert all(parameter.grad is None for parameter in whitening.parameters())


def test_what_changes_between_pairs_has_unit_variance_and_features_are_uncorrelated() -> None:
    """The two things that define it: W C_S Wᵀ = 1, and W C Wᵀ is diagonal."""
    random = np.random.default_rng(2)
    points, noise = correlated_features(2000), np.linspace(0.5, 2, 8, dtype=np.float32)
    x, y = (points + noise * random.normal(size=points.shape).astype(np.float32) for _ in range(2))
    both = np.concatenate([x, y])
    _, directions = pair_whitening(moments_of(both), moments_of(x - y), 8)
    np.testing.assert_allclose(np.mean(((x - y) @ directions.T) ** 2, axis=0), 2, rtol=1e-3)
    covariance = np.cov((both @ directions.T).T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-2)
    assert (np.diff(np.diag(covariance)) < 0).all()


def test_a_direction_that_changes_between_pairs_is_given_up_first() -> None:
    """PCA keeps the direction of most variance, even where the variance is all noise."""
    random = np.random.default_rng(3)
    points = correlated_features(2000)
    x, y = points.copy(), points.copy()
    for side in (x, y):
        side[:, 2] = random.normal(0, 50, len(side))
    moments = moments_of(x, y)
    _, by_pairs = pair_whitening(moments, moments_of(x - y), 4)
    _, by_variance = pca_whitening(moments, 4, shrinkage=1.0)
    assert abs(by_pairs[:, 2]).max() < 1e-3 * abs(by_pairs).max()
    assert abs(by_variance[0]).argmax() == 2


@pytest.mark.parametrize("pairs", [1, 5])
def test_few_pairs_blow_nothing_up(pairs: int) -> None:
    features = correlated_features()
    _, directions = pair_whitening(moments_of(features), moments_of(features[:pairs] - features[1 : pairs + 1]), 8)
    assert np.isfinite(directions).all()
    assert np.linalg.norm((features - features.mean(axis=0)) @ directions.T, axis=1).max() < 1e4
