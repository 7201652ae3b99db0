"""Baking changes no result."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from export.bake import bake
from train.network import Network
from train.smoothing import FixedSmoothing
from train.trunk import BUILDERS

Build = Callable[..., Network]


@pytest.mark.parametrize("trunk", sorted(BUILDERS))
def test_folding_batch_norm_leaves_none_and_keeps_the_features(trunk: str, network: Build) -> None:
    original = network(trunk=trunk, graph=False, smoothing="none").double()  # rounding would show beside a ReLU6
    baked = bake(original, "fp32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in baked.modules())
    image = 255 * torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        wanted, got = original.trunk(image), baked.trunk(image)
    assert (got - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def test_a_shared_bandwidth_becomes_one_constant_kernel(network: Build) -> None:
    original = network(bandwidth="shared")
    baked = bake(original, "fp32")
    assert isinstance(baked.smoothing, FixedSmoothing)
    features = torch.rand(1, 24, 9, 7)
    torch.testing.assert_close(baked.smoothing(features), original.smoothing(features))


def test_fp16_halves_the_trunk_and_nothing_else(network: Build) -> None:
    baked = bake(network(), "fp16")
    assert {p.dtype for p in baked.trunk.parameters()} == {torch.float16}
    for module in (baked.smoothing, baked.graph, baked.whitening):
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_the_original_is_left_alone(network: Build) -> None:
    original = network()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    bake(original, "fp16")
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
