"""Graph refinement (method 1 of Seo & Han 2024): the strongest positions hear from positions that look alike.

Nodes are the N strongest positions of a map. Each has edges to its k most similar nodes (cosine), at any distance.
Stacked graph convolutions pass messages along the edges, and every block re-weights the node features channel by
channel, and the nodes' attention: how useful a position is depends on what else in the photo looks like it
(docs/experiments.md). It can also learn that positions count less if their neighbours look like them: grass, sky and
bare walls repeat, and do not tell one place from another (burstiness: Jégou, Douze, Schmid, CVPR 2009). N and k are
static, so that the graph can be traced: smaller maps are padded, and padding takes no part as a node, as a neighbour or
in the output.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_NODES = 3840  # the limit of TensorRT's TopK
NO_EDGE = -2.0  # below every cosine
MAX_GAIN = 0.1  # of a channel, up or down: without a bound, gains overfit the training photos
MAX_CHANGE = 3.0  # of the logarithm of attention: no position may vanish, none may outweigh all others


class GraphRefinement(nn.Module):
    """Refines the N strongest positions of a map in place; a new one leaves all as it is."""

    def __init__(self, channels: int, nodes: int, neighbours: int, blocks: int, width: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.neighbours = neighbours
        self.burstiness = nn.Parameter(torch.tensor(0.0))
        self.embed = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(GraphBlock(channels, width) for _ in range(blocks))

    def forward(self, features: Tensor, strengths: Tensor, positions_at_most: int = MAX_NODES) -> tuple[Tensor, Tensor]:
        """Features [B, C, h, w] and their attention [B, h, w] → both, refined, in the same shapes.

        ``positions_at_most`` is a bound on h·w. If it is below N, that many nodes give the same result in less time.
        """
        height, width = features.shape[-2:]
        nodes = min(self.nodes, max(positions_at_most, self.neighbours + 1))
        positions, rows, is_node = choose_nodes(features, strengths, nodes)
        refined, importance = self.refine(positions.gather(1, rows), is_node)
        positions = positions.scatter(1, rows, refined)
        factors = positions.new_ones(positions.shape[:2]).scatter(1, rows[:, :, 0], importance)
        refined_map = positions[:, : height * width].transpose(1, 2).unflatten(2, (height, width))
        return (
            refined_map.contiguous(),  # else tracing a convolution asks whether the map is one cell wide
            strengths * factors[:, : height * width].unflatten(1, (height, width)),
        )

    def refine(self, nodes: Tensor, is_node: Tensor) -> tuple[Tensor, Tensor]:
        """Re-weights the nodes. Permuting the nodes permutes the output; padded rows come out as they went in.

        Args:
            nodes: features [B, N, C].
            is_node: bool [B, N], False for padding.

        Returns:
            re-weighted features [B, N, C], and the factors [B, N] of the nodes' attention.
        """
        directions, edges, edge_weights, likeness = self.connect(nodes, is_node)
        hidden = F.relu(self.embed(directions))
        refined, change = nodes, torch.zeros_like(likeness)
        for block in self.blocks:
            hidden, gain, asked = block(hidden, edges, edge_weights)
            refined = refined * gain
            change = change + asked
        change = about_mean(change, is_node).clamp(-MAX_CHANGE, MAX_CHANGE)
        # With 1 − likeness instead of −likeness the factor is at least 1: burstiness alone cannot push a node below the
        # weaker positions that are not nodes.
        importance = torch.exp(self.burstiness * (1 - likeness) + change)
        return torch.where(is_node.unsqueeze(2), refined, nodes), torch.where(is_node, importance, 1.0)

    def connect(self, nodes: Tensor, is_node: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unit vectors [B, N, C] of the nodes, and their neighbours as ``nearest_neighbours`` gives them."""
        directions = F.normalize(nodes, dim=2, eps=1e-4)
        return directions, *nearest_neighbours(directions, is_node, self.neighbours)


class GraphBlock(nn.Module):
    """One graph convolution with a residual, and the re-weighting that it predicts."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.heard = nn.Linear(width, width, bias=False)
        self.gain = nn.Linear(width, channels)
        self.importance = nn.Linear(width, 1, bias=False)
        for parameter in (*self.gain.parameters(), *self.importance.parameters()):  # a new block is the identity
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, edges: Tensor, edge_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [B, N, H] → the next states [B, N, H], channel gains [B, N, C] around 1, and what is added to
        the logarithm of the attention [B, N]."""
        messages = gather_messages(hidden, edges, edge_weights)
        hidden = hidden + F.relu(self.own(hidden) + self.heard(messages))
        return hidden, 1 + MAX_GAIN * torch.tanh(self.gain(hidden)), self.importance(hidden).squeeze(2)


def nodes_covering(image_size: int, stride: int) -> int:
    """How many nodes make every position of a square image's map a node; ``MAX_NODES`` at most."""
    side = -(-image_size // stride)
    return min(side * side, MAX_NODES)


def choose_nodes(features: Tensor, strengths: Tensor, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes of a map, the strongest first.

    Args:
        features: [B, C, h, w].
        strengths: their attention [B, h, w].
        nodes: N.

    Returns:
        positions [B, h·w + N, C], the map row by row and N rows of padding, with which every map has a top-N of N
        different indices; the rows that are nodes, int64 [B, N, C], the same for every channel, for ``gather``;
        bool [B, N], False for padding.
    """
    positions = F.pad(features.flatten(2).transpose(1, 2), (0, 0, 0, nodes))
    strongest, chosen = F.pad(strengths.flatten(1), (0, nodes), value=-1.0).topk(nodes, dim=1)
    return positions, chosen.unsqueeze(2).expand(-1, -1, features.shape[1]), strongest >= 0


def nearest_neighbours(directions: Tensor, is_node: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k most similar other nodes of every node.

    Args:
        directions: unit vectors [B, N, C].
        is_node: bool [B, N], False for padding, which is nobody's neighbour.
        neighbours: k < N.

    Returns:
        edges, int64 [B, N, k]; their weights [B, N, k], the cosines above 0 with each row scaled to a sum of 1 (or 0
        for a node without neighbours); and likeness [B, N] in [0, 1], the mean of a node's cosines above 0.
    """
    similarity = directions @ directions.transpose(1, 2)
    itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    similarity = similarity.masked_fill(itself | ~is_node.unsqueeze(1), NO_EDGE)
    cosines, edges = similarity.topk(neighbours, dim=2)
    weights = cosines.clamp(min=0)
    total = weights.sum(dim=2, keepdim=True)
    true_edges = (cosines > (NO_EDGE - 1) / 2).sum(dim=2)  # a map of few nodes has fewer than k
    return edges, weights / total.clamp(min=1e-4), total.squeeze(2) / true_edges.clamp(min=1)


def about_mean(values: Tensor, is_node: Tensor) -> Tensor:
    """Values [B, N] minus their mean over the nodes of the map.

    A shift that all nodes share changes no ranking. The match loss depends on the ranking of positions alone, so that
    nothing would keep the shift from growing until the bound ``MAX_CHANGE`` makes all nodes equal.
    """
    total = (values * is_node).sum(dim=1, keepdim=True)
    return values - total / is_node.sum(dim=1, keepdim=True).clamp(min=1)


def gather_messages(hidden: Tensor, edges: Tensor, edge_weights: Tensor) -> Tensor:
    """The message that every node receives: the weighted mean of its neighbours' hidden states, [B, N, H]."""
    batch, nodes, width = hidden.shape
    first_row = torch.arange(batch, device=edges.device).view(-1, 1, 1) * nodes
    heard = hidden.reshape(batch * nodes, width).index_select(0, (edges + first_row).flatten())
    return (edge_weights.unsqueeze(3) * heard.view(*edges.shape, width)).sum(dim=2)
