"""Smoothing against a Gaussian that is summed position by position."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from train.models.smoothing import (
    AverageSmoothing,
    LearnedSmoothing,
    RingSums,
    SharedSmoothing,
    build_smoothing,
    gaussian_smoothing,
)

every_kernel = pytest.mark.parametrize("kernel", [3, 5, 7])


@pytest.fixture
def features() -> Tensor:
    return torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0)) * 4


def constant_map(features: Tensor, value: float) -> Tensor:
    return torch.full_like(features[:, :1], value)


def random_map(features: Tensor, largest: float, seed: int) -> Tensor:
    return largest * torch.rand(features[:, :1].shape, generator=torch.Generator().manual_seed(seed))


def direct_gaussian(features: Tensor, bandwidth: Tensor, confidence: Tensor, kernel: int) -> Tensor:
    """out(p) = Σ w(p,q)·x(q) / Σ w(p,q), one position and one neighbour at a time."""
    images, _, height, width = features.shape
    reach = kernel // 2
    smoothed = torch.empty_like(features)
    for image in range(images):
        for y in range(height):
            for x in range(width):
                total, weight = 0, 0
                for v in range(max(0, y - reach), min(height, y + reach + 1)):
                    for u in range(max(0, x - reach), min(width, x + reach + 1)):
                        squared = (u - x) ** 2 + (v - y) ** 2
                        gaussian = math.exp(-float(bandwidth[image, 0, y, x]) * squared)
                        w = gaussian if squared else float(confidence[image, 0, y, x])
                        total, weight = total + w * features[image, :, v, u], weight + w
                smoothed[image, :, y, x] = total / weight
    return smoothed


@every_kernel
def test_rings_equal_a_direct_gaussian(features: Tensor, kernel: int) -> None:
    bandwidth, confidence = random_map(features, 2.0, seed=1), random_map(features, 1.0, seed=2)
    smoothed = gaussian_smoothing(features, bandwidth, confidence, RingSums(kernel))
    torch.testing.assert_close(smoothed, direct_gaussian(features, bandwidth, confidence, kernel))


@every_kernel
@torch.no_grad()
def test_learned_smoothing_is_the_gaussian_of_its_own_heads(features: Tensor, kernel: int) -> None:
    smoothing = LearnedSmoothing(3, kernel)
    torch.manual_seed(3)
    for head in (smoothing.bandwidth_head, smoothing.confidence_head):
        torch.nn.init.normal_(head.weight)
    bandwidth, confidence = smoothing.bandwidth(features), smoothing.confidence(features)
    assert bandwidth.min() >= 0
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert bandwidth.std() > 0.05
    assert confidence.std() > 0.05
    torch.testing.assert_close(smoothing(features), direct_gaussian(features, bandwidth, confidence, kernel))


@every_kernel
def test_no_bandwidth_and_full_confidence_is_the_average(features: Tensor, kernel: int) -> None:
    how = F.avg_pool2d(features, kernel, 1, kernel // 2, count_include_pad=False)
    zero, one = constant_map(features, 0), constant_map(features, 1)
    torch.testing.assert_close(gaussian_smoothing(features, zero, one, RingSums(kernel)), how, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(AverageSmoothing(kernel)(features), direct_gaussian(features, zero, one, kernel))


@every_kernel
def test_a_large_bandwidth_with_full_confidence_is_the_identity(features: Tensor, kernel: int) -> None:
    large, one = constant_map(features, 50), constant_map(features, 1)
    torch.testing.assert_close(gaussian_smoothing(features, large, one, RingSums(kernel)), features)


@every_kernel
def test_no_confidence_ignores_the_centre(features: Tensor, kernel: int) -> None:
    bandwidth, none = random_map(features, 2.0, seed=4), constant_map(features, 0)
    smoothed = gaussian_smoothing(features, bandwidth, none, RingSums(kernel))
    features[:, :, 2, 4] += 100
    disturbed = gaussian_smoothing(features, bandwidth, none, RingSums(kernel))
    torch.testing.assert_close(disturbed[:, :, 2, 4], smoothed[:, :, 2, 4])
    assert (disturbed[:, :, 2, 5] - smoothed[:, :, 2, 5]).min() > 0.1


def test_a_position_that_hears_nobody_is_no_division_by_zero(features: Tensor) -> None:
    smoothed = gaussian_smoothing(features, constant_map(features, 1e4), constant_map(features, 0), RingSums(3))
    assert smoothed.isfinite().all()


@pytest.mark.parametrize("bandwidth", ["per-position", "shared"])
def test_learning_starts_next_to_the_average(features: Tensor, bandwidth: str) -> None:
    smoothed = build_smoothing("learned", 3, 3, bandwidth)(features)
    torch.testing.assert_close(smoothed, AverageSmoothing(3)(features), rtol=0.02, atol=0)


@pytest.mark.parametrize("bandwidth", ["per-position", "shared"])
def test_gradients_reach_bandwidth_and_confidence(features: Tensor, bandwidth: str) -> None:
    smoothing = build_smoothing("learned", 3, 3, bandwidth)
    smoothing(features).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in smoothing.named_parameters()}
    assert len(gradients) == (4 if bandwidth == "per-position" else 2)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().min() > 0, name


@every_kernel
@pytest.mark.parametrize(("raw_bandwidth", "raw_confidence"), [(-1.0, -2.0), (0.5, 1.0), (110.0, -110.0)])
def test_baked_equals_shared(features: Tensor, kernel: int, raw_bandwidth: float, raw_confidence: float) -> None:
    smoothing = SharedSmoothing(kernel)
    torch.nn.init.constant_(smoothing.raw_bandwidth, raw_bandwidth)
    torch.nn.init.constant_(smoothing.raw_confidence, raw_confidence)
    torch.testing.assert_close(smoothing.folded()(features), smoothing(features))
    assert smoothing(features).isfinite().all()
    assert not list(smoothing.folded().parameters())


def test_none_leaves_features_alone(features: Tensor) -> None:
    assert torch.equal(build_smoothing("none", 3, 3, "per-position")(features), features)
