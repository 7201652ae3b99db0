"""Baking changes no result."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from export.tracing import fold
from train.backbones import BUILDERS
from train.models.how import HowNetwork
from train.models.smoothing import FixedSmoothing

Build = Callable[..., HowNetwork]

TOO_DEEP = {"resnet101_stride32", "resnet152_stride32"}  # random weights overflow; their blocks are ResNet-50's


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(BUILDERS.keys() - TOO_DEEP))
def test_folding_batch_norm_leaves_none_and_keeps_the_features(backbone: str, network: Build) -> None:
    original = network(
        backbone=backbone, refine="none", smoothing="none"
    ).double()  # rounding would show beside a ReLU6
    folded = fold(original, "fp32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = 255 * torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        wanted, got = original.backbone(image), folded.backbone(image)
    assert (got - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.slow
def test_a_shared_bandwidth_becomes_one_constant_kernel(network: Build) -> None:
    original = network(bandwidth="shared")
    folded = fold(original, "fp32")
    assert isinstance(folded.smoothing, FixedSmoothing)
    features = torch.rand(1, 24, 9, 7)
    torch.testing.assert_close(folded.smoothing(features), original.smoothing(features))


def test_fp16_halves_the_backbone_and_nothing_else(network: Build) -> None:
    folded = fold(network(), "fp16")
    assert {p.dtype for p in folded.backbone.parameters()} == {torch.float16}
    for module in (folded.smoothing, folded.graph, folded.whitening):
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_the_original_is_left_alone(network: Build) -> None:
    original = network()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    fold(original, "fp16")
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
