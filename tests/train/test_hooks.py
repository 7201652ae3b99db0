"""Inspection against the network's own modules, called one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.hooks import inspect
from train.models.extractor import LocalExtractor
from train.models.graph import nearest_neighbours
from train.models.how import HowConfig, HowNetwork


def image_of(height: int = 38, width: int = 52) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def trained(config: HowConfig, **changes: object) -> HowNetwork:
    """Far from the initial weights, so that no module is the identity."""
    torch.manual_seed(0)
    network = HowNetwork(replace(config, **changes)).eval()  # type: ignore[arg-type]
    for module in network.new_modules():
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network


@torch.no_grad()
def test_maps_are_those_of_the_modules(tiny_config: HowConfig) -> None:
    network = trained(tiny_config, smoothing="learned", refine="graph")
    seen = inspect(network, image_of())
    pixels = torch.from_numpy(image_of()).float().permute(2, 0, 1)[None]
    raw = network.backbone(pixels)
    refined, _ = network.refined_features(pixels)
    np.testing.assert_allclose(seen.backbone_attention, raw.norm(dim=1)[0], rtol=1e-5)
    np.testing.assert_allclose(seen.refined_attention, refined.norm(dim=1)[0], rtol=1e-5)
    np.testing.assert_array_equal(seen.strengths, network(pixels).strengths[0])
    assert not np.allclose(seen.backbone_attention, seen.refined_attention)
    for attention_map in (seen.backbone_attention, seen.refined_attention, seen.strengths, seen.bandwidth):
        assert attention_map is not None
        assert attention_map.shape == (len(seen.y), len(seen.x)) == (10, 13)
        assert attention_map.dtype == np.float32


@torch.no_grad()
def test_bandwidth_and_confidence_are_those_that_smooth(tiny_config: HowConfig) -> None:
    network = trained(tiny_config, smoothing="learned")
    seen = inspect(network, image_of())
    given: list[torch.Tensor] = []
    handle = network.smoothing.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    network(torch.from_numpy(image_of()).float().permute(2, 0, 1)[None])
    handle.remove()
    np.testing.assert_array_equal(seen.bandwidth, network.smoothing.bandwidth(given[0])[0, 0])  # type: ignore[operator]
    np.testing.assert_array_equal(seen.confidence, network.smoothing.confidence(given[0])[0, 0])  # type: ignore[operator]


@pytest.mark.parametrize("change", [{"smoothing": "average"}, {"smoothing": "learned", "bandwidth": "shared"}])
def test_what_a_network_lacks_is_none(tiny_config: HowConfig, change: dict[str, str]) -> None:
    seen = inspect(trained(tiny_config, **change), image_of())
    assert seen.bandwidth is None
    assert seen.confidence is None
    assert seen.graph is None


@pytest.mark.parametrize(("nodes", "neighbours"), [(20, 3), (200, 5)])
@torch.no_grad()
def test_edges_are_those_of_nearest_neighbours(tiny_config: HowConfig, nodes: int, neighbours: int) -> None:
    network = trained(tiny_config, smoothing="none", refine="graph", graph_nodes=nodes, graph_neighbours=neighbours)
    seen = inspect(network, image_of())
    graph = seen.graph
    assert graph is not None
    features = network.backbone(torch.from_numpy(image_of()).float().permute(2, 0, 1)[None])[0].flatten(1).T
    order = features.norm(dim=1).argsort(descending=True)[:nodes]
    directions = F.normalize(features[order], dim=1)
    edges, weights, _ = nearest_neighbours(directions[None], torch.ones(1, len(order), dtype=torch.bool), neighbours)
    assert graph.edges.shape == (min(nodes, 130), neighbours)
    np.testing.assert_array_equal(graph.edges, edges[0])
    np.testing.assert_allclose(graph.weights, weights[0], rtol=1e-5)
    cosines = (directions @ directions.T).gather(1, edges[0])
    np.testing.assert_allclose(graph.cosines, cosines, atol=1e-6)
    np.testing.assert_allclose(graph.nodes[:, 0], seen.x[order % 13])
    np.testing.assert_allclose(graph.nodes[:, 1], seen.y[order // 13])


def test_a_map_of_fewer_positions_than_neighbours_has_edges_between_true_nodes_only(tiny_config: HowConfig) -> None:
    graph = inspect(trained(tiny_config, refine="graph"), image_of(6, 7)).graph
    assert graph is not None
    assert graph.edges.shape == graph.weights.shape == graph.cosines.shape == (4, 3)
    assert sorted(graph.edges[0].tolist()) == [1, 2, 3]


@pytest.mark.parametrize("scale", [1.0, 1.414, 0.5])
@torch.no_grad()
def test_cells_lie_where_extraction_says(tiny_config: HowConfig, scale: float) -> None:
    network = trained(tiny_config, border=True)
    seen = inspect(network, image_of(), scale)
    _, strengths, positions, count = LocalExtractor(network, (scale,), 500)(torch.from_numpy(image_of()))
    n = int(count)
    order = np.argsort(-seen.strengths.ravel(), kind="stable")
    assert n == len(order)
    rows, columns = np.divmod(order, len(seen.x))
    np.testing.assert_allclose(positions[:n, 0], seen.x[columns])
    np.testing.assert_allclose(positions[:n, 1], seen.y[rows])
    np.testing.assert_allclose(strengths[:n], seen.strengths.ravel()[order] / seen.strengths.max(), rtol=1e-6)


def test_the_network_is_left_as_it_was(tiny_config: HowConfig) -> None:
    network = trained(tiny_config, refine="graph")
    inspect(network, image_of())
    assert not any(module._forward_hooks for module in network.modules())
