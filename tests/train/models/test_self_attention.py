"""Self-attention in the graph's place, against attention that is written node by node."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from runtime.errors import UsageError
from train.models.how import HowConfig, HowNetwork
from train.models.self_attention import HEADS, SelfAttentionRefinement

CHANNELS, WIDTH = 6, 8


def trained(nodes: int, blocks: int = 2) -> SelfAttentionRefinement:
    torch.manual_seed(0)
    made = SelfAttentionRefinement(CHANNELS, nodes, blocks, WIDTH)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return made


def random_map(height: int, width: int, images: int = 1) -> tuple[Tensor, Tensor]:
    features = torch.rand(images, CHANNELS, height, width, generator=torch.Generator().manual_seed(1))
    return features, features.norm(dim=1)


def node_by_node(refinement: SelfAttentionRefinement, nodes: list[Tensor]) -> list[Tensor]:
    """The refined nodes, without batches, heads or padding as axes."""
    for block in refinement.blocks:
        normed = [block.norm(node) for node in nodes]
        refined, size = [], WIDTH // HEADS
        for node, x in zip(nodes, normed, strict=True):
            heard = []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                q = block.query(x)[part]
                weights = torch.tensor([float(q @ block.key(other)[part]) / math.sqrt(size) for other in normed]).exp()
                values = torch.stack([block.value(other)[part] for other in normed])
                heard.append((weights / weights.sum()) @ values)
            refined.append(node + block.output(torch.cat(heard)))
        nodes = refined
    return nodes


@torch.no_grad()
@pytest.mark.parametrize("nodes", [7, 12, 40], ids=["a part of the map", "the map", "more than the map"])
def test_the_strongest_positions_hear_from_each_other_and_others_stay(nodes: int) -> None:
    features, strengths = random_map(3, 4)
    refined, weighted = trained(nodes)(features, strengths)
    strongest = strengths.flatten().argsort(descending=True)[:nodes]
    wanted = features[0].flatten(1).T.clone()
    wanted[strongest] = torch.stack(node_by_node(trained(nodes), list(wanted[strongest])))
    torch.testing.assert_close(refined[0].flatten(1).T, wanted)
    torch.testing.assert_close(weighted.flatten(), wanted.norm(dim=1))


def test_a_new_one_leaves_features_and_attention_as_they_are() -> None:
    features, strengths = random_map(4, 5, images=2)
    refined, weighted = SelfAttentionRefinement(CHANNELS, 9, 2, WIDTH)(features, strengths)
    torch.testing.assert_close(refined, features, rtol=0, atol=0)
    torch.testing.assert_close(weighted, strengths)


def test_a_bound_on_positions_spares_nodes_and_changes_nothing() -> None:
    features, strengths = random_map(3, 4)
    made = trained(40)
    for bounded, whole in zip(made(features, strengths, 12), made(features, strengths), strict=True):
        torch.testing.assert_close(bounded, whole)


def test_gradients_are_finite_where_features_are_equal_or_zero() -> None:
    made = trained(9)
    for filling in (0.0, 1.0):
        features = torch.full((1, CHANNELS, 3, 3), filling, requires_grad=True)
        refined, weighted = made(features, torch.ones(1, 3, 3))
        (refined.square().sum() + weighted.sum()).backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()


def test_the_network_has_it_in_place_of_the_graph(tiny_config: HowConfig) -> None:
    network = HowNetwork(replace(tiny_config, refine="self-attention")).eval()
    plain = HowNetwork(tiny_config).eval()
    network.load_state_dict(plain.state_dict(), strict=False)
    images = 255 * torch.rand(2, 3, 33, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images).descriptors, plain(images).descriptors)
    assert network.graph is None
    assert network.self_attention in network.new_modules()
    with pytest.raises(UsageError, match="--graph-width 6: self-attention needs a multiple of its 4 heads"):
        replace(tiny_config, refine="self-attention", graph_width=6)


@pytest.mark.slow
def test_it_traces_for_maps_of_any_size() -> None:
    made = trained(12).eval()
    height, width = Dim("height", min=1, max=64), Dim("width", min=1, max=64)
    shapes = {"features": {2: height, 3: width}, "strengths": {1: height, 2: width}}
    traced = torch.export.export(made, random_map(5, 6), dynamic_shapes=shapes).module()
    for size in [(2, 3), (9, 4)]:
        torch.testing.assert_close(traced(*random_map(*size)), made(*random_map(*size)))
