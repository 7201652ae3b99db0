"""Graph refinement against message passing that is written node by node."""

import math

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional as F

from train.models.graph import GraphRefinement

CHANNELS = 6


def trained_graph(nodes: int, neighbours: int, blocks: int = 2, seed: int = 0) -> GraphRefinement:
    """A graph that is far from the identity; the weights do not depend on N or k."""
    torch.manual_seed(seed)
    graph = GraphRefinement(CHANNELS, nodes, neighbours, blocks, width=5)
    for parameter in graph.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return graph


def random_map(height: int, width: int, images: int = 1, seed: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    features = torch.rand(images, CHANNELS, height, width, generator=random)
    return features, features.norm(dim=1)


def refined_node_by_node(graph: GraphRefinement, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The refined nodes [n, C] and the factors of their attention, without batches, padding or tensors of edges."""
    directions = [node / node.norm() for node in nodes]
    hidden = [torch.relu(graph.embed(direction)) for direction in directions]
    refined = list(nodes)
    burstiness, changes = [], [torch.zeros(()) for _ in nodes]
    for i, direction in enumerate(directions):
        cosines = sorted((float(direction @ other) for j, other in enumerate(directions) if j != i), reverse=True)
        likeness = sum(max(cosine, 0) for cosine in cosines[: graph.neighbours]) / max(
            1, len(cosines[: graph.neighbours])
        )
        burstiness.append(graph.burstiness * (1 - likeness))
    for block in graph.blocks:
        heard = []
        for i, direction in enumerate(directions):
            cosines = {j: float(direction @ other) for j, other in enumerate(directions) if j != i}
            nearest = sorted(cosines, key=cosines.__getitem__, reverse=True)[: graph.neighbours]
            total = sum(max(cosines[j], 0) for j in nearest)
            message = sum(max(cosines[j], 0) / total * hidden[j] for j in nearest) if total else 0 * hidden[i]
            heard.append(hidden[i] + torch.relu(block.own(hidden[i]) + block.heard(message)))
        hidden = heard
        refined = [x * (1 + 0.1 * torch.tanh(block.gain(h))) for x, h in zip(refined, hidden, strict=True)]
        changes = [change + block.importance(h)[0] for change, h in zip(changes, hidden, strict=True)]
    mean = sum(changes) / len(changes)
    importance = [torch.exp(b + (change - mean).clamp(-3, 3)) for b, change in zip(burstiness, changes, strict=True)]
    return torch.stack(refined), torch.stack(importance)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("count", "neighbours"), [(12, 3), (3, 7), (1, 2)])
def test_refinement_equals_message_passing_node_by_node(count: int, neighbours: int, padding: int) -> None:
    graph = trained_graph(nodes=count + padding, neighbours=min(neighbours, count + padding))
    nodes = torch.randn(1, count, CHANNELS, generator=torch.Generator().manual_seed(2))  # some cosines are below 0
    rows = torch.cat([nodes, torch.full((1, padding, CHANNELS), 9.0)], dim=1)
    is_node = torch.arange(count + padding)[None] < count
    refined, importance = graph.refine(rows, is_node)
    expected, expected_importance = refined_node_by_node(graph, nodes[0])
    torch.testing.assert_close(refined[0, :count], expected)
    torch.testing.assert_close(importance[0, :count], expected_importance)
    assert torch.equal(refined[:, count:], rows[:, count:])
    assert (importance[:, count:] == 1).all()


@pytest.mark.parametrize(("height", "width"), [(4, 5), (2, 3), (7, 8)])
def test_a_new_graph_leaves_features_and_attention_as_they_are(height: int, width: int) -> None:
    features, strengths = random_map(height, width)
    graph = GraphRefinement(CHANNELS, nodes=20, neighbours=4, blocks=2, width=5)
    refined, weighted = graph(features, strengths)
    assert torch.equal(refined, features)
    assert torch.equal(weighted, strengths)


def test_burstiness_counts_what_is_one_of_many_for_less() -> None:
    """A wall of one texture, and one position that looks like nothing else."""
    features = torch.zeros(1, CHANNELS, 4, 4)
    features[:, 0] = 1.0
    features[:, :, 2, 1] = F.one_hot(torch.tensor(1), CHANNELS).float()
    graph = GraphRefinement(CHANNELS, nodes=20, neighbours=4, blocks=2, width=5)
    torch.nn.init.constant_(graph.burstiness, 3.0)
    weighted = graph(features, torch.ones(1, 4, 4))[1].detach()
    assert float(weighted[0, 2, 1]) == pytest.approx(math.exp(3.0))
    weighted[0, 2, 1] = 1.0
    torch.testing.assert_close(weighted, torch.ones(1, 4, 4))


def test_permuting_the_nodes_permutes_the_output() -> None:
    graph = trained_graph(nodes=15, neighbours=4)
    nodes = torch.rand(2, 15, CHANNELS, generator=torch.Generator().manual_seed(3))
    is_node = torch.arange(15) < 11
    order = torch.randperm(15, generator=torch.Generator().manual_seed(4))
    permuted = graph.refine(nodes[:, order], is_node[order].expand(2, -1))
    for there, here in zip(permuted, graph.refine(nodes, is_node.expand(2, -1)), strict=True):
        torch.testing.assert_close(there, here[:, order])


def test_more_nodes_than_positions_change_nothing() -> None:
    features, strengths = random_map(4, 5)
    exact, padded = (trained_graph(nodes, neighbours=4)(features, strengths) for nodes in (20, 64))
    torch.testing.assert_close(padded, exact)
    assert (exact[0] - features).abs().max() > 0.01
    assert (exact[1] - strengths).abs().max() > 0.1


def test_what_padding_holds_does_not_matter() -> None:
    graph = trained_graph(nodes=10, neighbours=4)
    nodes = torch.rand(1, 10, CHANNELS, generator=torch.Generator().manual_seed(5))
    is_node = torch.arange(10)[None] < 6
    other = nodes.clone()
    other[:, 6:] = nodes[:, :1]  # look-alikes of a true node
    for there, here in zip(graph.refine(other, is_node), graph.refine(nodes, is_node), strict=True):
        torch.testing.assert_close(there[:, :6], here[:, :6])


def test_a_map_of_fewer_positions_than_neighbours() -> None:
    features, strengths = random_map(1, 3)
    refined, weighted = trained_graph(nodes=16, neighbours=8)(features, strengths)
    reference, importance = refined_node_by_node(trained_graph(nodes=16, neighbours=8), features[0].flatten(1).T)
    torch.testing.assert_close(refined[0].flatten(1).T, reference)
    torch.testing.assert_close(weighted.flatten(), strengths.flatten() * importance)


def test_only_the_strongest_positions_of_a_large_map_change() -> None:
    features, strengths = random_map(6, 7)
    refined, weighted = trained_graph(nodes=10, neighbours=4)(features, strengths)
    changed = (refined != features).any(dim=1).flatten()
    strongest = torch.zeros_like(changed)
    strongest[strengths.flatten().argsort(descending=True)[:10]] = True
    assert torch.equal(changed, strongest)
    assert torch.equal((weighted != strengths).flatten(), strongest)
    expected, importance = refined_node_by_node(trained_graph(10, 4), features[0].flatten(1).T[strongest])
    torch.testing.assert_close(refined[0].flatten(1).T[strongest], expected)
    torch.testing.assert_close((weighted / strengths).flatten()[strongest], importance)


def test_a_batch_equals_its_images_one_by_one() -> None:
    features, strengths = random_map(5, 5, images=3)
    graph = trained_graph(nodes=12, neighbours=4)
    one_by_one = [graph(features[i : i + 1], strengths[i : i + 1]) for i in range(3)]
    for together, alone in zip(graph(features, strengths), zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("filling", [0.0, 1.0])
def test_gradients_are_finite_where_nodes_are_empty_or_equal(filling: float) -> None:
    graph = trained_graph(nodes=16, neighbours=4)
    features = torch.full((1, CHANNELS, 3, 3), filling, requires_grad=True)
    refined, weighted = graph(features, torch.ones(1, 3, 3))
    (refined.square().sum() + weighted.sum()).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in graph.parameters())


@pytest.mark.slow
def test_the_traced_graph_has_static_nodes_and_edges() -> None:
    graph = trained_graph(nodes=12, neighbours=4).eval()
    height, width = Dim("height", min=1, max=64), Dim("width", min=1, max=64)
    shapes = {"features": {2: height, 3: width}, "strengths": {1: height, 2: width}}
    traced = torch.export.export(graph, random_map(5, 6), dynamic_shapes=shapes)
    chosen = [node for node in traced.graph.nodes if node.target == torch.ops.aten.topk.default]
    assert [node.args[1] for node in chosen] == [12, 4]
    assert [[*map(type, node.meta["val"][0].shape)] for node in chosen] == [[int, int], [int, int, int]]
    assert [[*node.meta["val"][0].shape] for node in chosen] == [[1, 12], [1, 12, 4]]
    for size in [(2, 3), (9, 4)]:
        torch.testing.assert_close(traced.module()(*random_map(*size)), graph(*random_map(*size)))
