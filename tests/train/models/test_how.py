"""The network: HOW's pipeline in its order, and the descriptor that training compares."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from train.models.base import FeatureMap
from train.models.how import HowConfig, HowNetwork
from train.models.local_model import global_descriptor


@pytest.fixture
def images() -> Tensor:
    return 255 * torch.rand(2, 3, 33, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("refine", ["none", "graph", "self-attention"])
@pytest.mark.parametrize("smoothing", ["average", "learned", "none"])
def test_descriptors_and_attention_are_maps_of_one_size(
    tiny_config: HowConfig, images: Tensor, smoothing: str, refine: str
) -> None:
    network = HowNetwork(replace(tiny_config, smoothing=smoothing, refine=refine)).eval()
    local = network(images)
    assert local.descriptors.shape == (2, 8, 9, 12)
    assert local.strengths.shape == (2, 9, 12)


def test_attention_is_the_norm_of_raw_backbone_features(tiny_config: HowConfig, images: Tensor) -> None:
    network = HowNetwork(replace(tiny_config, smoothing="learned")).eval()
    for module in network.new_modules():
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    expected = torch.linalg.vector_norm(network.backbone(images), dim=1)
    torch.testing.assert_close(network(images).strengths, expected, rtol=1e-4, atol=1e-4)


def test_the_pipeline_is_graph_then_smoothing_then_whitening(tiny_config: HowConfig, images: Tensor) -> None:
    network = HowNetwork(replace(tiny_config, smoothing="learned", refine="graph")).eval()
    torch.manual_seed(1)
    for module in network.new_modules():
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    assert network.graph is not None
    raw = network.backbone(images)
    features, strengths = network.graph(raw, raw.norm(dim=1))
    torch.testing.assert_close(network(images).descriptors, network.whitening(network.smoothing(features)))
    torch.testing.assert_close(network(images).strengths, strengths)


def test_a_new_graph_leaves_the_network_as_it_is_without(tiny_config: HowConfig, images: Tensor) -> None:
    plain = HowNetwork(tiny_config).eval()
    refined = HowNetwork(replace(tiny_config, refine="graph")).eval()
    refined.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(refined(images).descriptors, plain(images).descriptors)


def test_new_modules_are_those_that_start_untrained(tiny_config: HowConfig) -> None:
    network = HowNetwork(replace(tiny_config, smoothing="learned", refine="graph"))
    new = {id(p) for module in network.new_modules() for p in module.parameters()}
    backbone = {id(p) for p in network.backbone.parameters()}
    learned = {id(p) for p in network.parameters() if p.requires_grad}
    assert new
    assert new | backbone == learned
    assert not new & backbone


def test_the_global_descriptor_is_the_attention_weighted_sum() -> None:
    random = torch.Generator().manual_seed(2)
    local = FeatureMap(torch.randn(3, 4, 2, 5, generator=random), torch.rand(3, 2, 5, generator=random))
    for image, vector in enumerate(global_descriptor(local)):
        total = torch.zeros(4)
        for y in range(2):
            for x in range(5):
                total += local.strengths[image, y, x] * local.descriptors[image, :, y, x]
        torch.testing.assert_close(vector, total / total.norm())
