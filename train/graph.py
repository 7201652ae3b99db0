"""Graph refinement (the deck's method 1): the strongest positions hear from those that look alike, however far.

Nodes are the N strongest positions of a map; each has edges to its k most similar nodes (cosine). Stacked graph
convolutions pass messages along the edges, and every block re-weights the node features channel by channel, and the
nodes' attention: what else looks alike in a photo tells what a position is worth (docs/experiments.md). N and k are
static, so the graph traces: smaller maps are padded, and padding takes no part as a node, as a neighbour or in the
output.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_NODES = 3840  # TensorRT's TopK takes no more
NO_EDGE = -2.0  # below every cosine
MOST_CHANGE = 3.0  # of the logarithm of attention: no position is lost for good, none drowns the others


class GraphRefinement(nn.Module):
    """Refines the N strongest positions of a map in place; at its initial weights it changes nothing."""

    def __init__(self, channels: int, nodes: int, neighbours: int, blocks: int, width: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.neighbours = neighbours
        self.embed = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(GraphBlock(channels, width) for _ in range(blocks))

    def forward(self, features: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, C, h, w] and their attention [B, h, w] → both, refined, in the same shapes."""
        height, width = features.shape[-2:]
        positions, rows, is_node = self.choose(features, strengths)
        refined, importance = self.refine(positions.gather(1, rows), is_node)
        positions = positions.scatter(1, rows, refined)
        factors = positions.new_ones(positions.shape[:2]).scatter(1, rows[:, :, 0], importance)
        return (
            positions[:, : height * width].transpose(1, 2).unflatten(2, (height, width)),
            strengths * factors[:, : height * width].unflatten(1, (height, width)),
        )

    def choose(self, features: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nodes of a map, the strongest first.

        Returns:
            positions [B, h·w + N, C], the map row by row and N slots of padding: a top-N exists for every map, and all
            its indices differ; the rows that are nodes, int64 [B, N, C], the same for every channel, for ``gather``;
            bool [B, N], False for padding.
        """
        positions = F.pad(features.flatten(2).transpose(1, 2), (0, 0, 0, self.nodes))
        strongest, chosen = F.pad(strengths.flatten(1), (0, self.nodes), value=-1.0).topk(self.nodes, dim=1)
        return positions, chosen.unsqueeze(2).expand(-1, -1, features.shape[1]), strongest >= 0

    def refine(self, nodes: Tensor, is_node: Tensor) -> tuple[Tensor, Tensor]:
        """Node features [B, N, C], with False in ``is_node`` [B, N] for padding → what becomes of the nodes.

        Permuting the nodes permutes the output; padded rows come out as they went in.

        Returns:
            re-weighted features [B, N, C], and the factors [B, N] of the nodes' attention.
        """
        directions, edges, edge_weights = self.connect(nodes, is_node)
        hidden = F.relu(self.embed(directions))
        refined, log_importance = nodes, torch.zeros_like(nodes[:, :, 0])
        for block in self.blocks:
            hidden, gain, change = block(hidden, edges, edge_weights)
            refined = refined * gain
            log_importance = log_importance + change
        importance = torch.exp(log_importance.clamp(-MOST_CHANGE, MOST_CHANGE))
        return torch.where(is_node.unsqueeze(2), refined, nodes), torch.where(is_node, importance, 1.0)

    def connect(self, nodes: Tensor, is_node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors [B, N, C] of the nodes, and their edges and weights as ``nearest_neighbours`` gives them."""
        directions = F.normalize(nodes, dim=2, eps=1e-4)
        return directions, *nearest_neighbours(directions, is_node, self.neighbours)


class GraphBlock(nn.Module):
    """One graph convolution with a residual, and the re-weighting that it asks for."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.heard = nn.Linear(width, width, bias=False)
        self.gain = nn.Linear(width, channels)
        self.importance = nn.Linear(width, 1, bias=False)  # a factor that all nodes share would say nothing
        for parameter in (*self.gain.parameters(), *self.importance.parameters()):  # a new block is the identity
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, edges: Tensor, edge_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [B, N, H] → the next ones [B, N, H], gains [B, N, C] in (0, 2), and what is added to the
        logarithm of the attention [B, N]."""
        messages = gather_messages(hidden, edges, edge_weights)
        hidden = hidden + F.relu(self.own(hidden) + self.heard(messages))
        return hidden, 1 + torch.tanh(self.gain(hidden)), self.importance(hidden).squeeze(2)


def nodes_covering(image_size: int, stride: int) -> int:
    """N for which every position of a square image's map is a node, or as many as there can be."""
    side = -(-image_size // stride)
    return min(side * side, MOST_NODES)


def nearest_neighbours(directions: Tensor, is_node: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """The k most similar other nodes of every node.

    Args:
        directions: unit vectors [B, N, C].
        is_node: bool [B, N], False for padding, which is nobody's neighbour.
        neighbours: k < N.

    Returns:
        edges, int64 [B, N, k], and their weights [B, N, k]: the cosines above 0, each row summing to 1, or to 0
        where a node has no neighbour at all.
    """
    similarity = directions @ directions.transpose(1, 2)
    itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    similarity = similarity.masked_fill(itself | ~is_node.unsqueeze(1), NO_EDGE)
    cosines, edges = similarity.topk(neighbours, dim=2)
    weights = cosines.clamp(min=0)
    return edges, weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-4)


def gather_messages(hidden: Tensor, edges: Tensor, edge_weights: Tensor) -> Tensor:
    """What every node hears: the weighted mean of its neighbours' hidden states, [B, N, H]."""
    batch, nodes, width = hidden.shape
    first_row = torch.arange(batch, device=edges.device).view(-1, 1, 1) * nodes
    heard = hidden.reshape(batch * nodes, width).index_select(0, (edges + first_row).flatten())
    return (edge_weights.unsqueeze(3) * heard.view(*edges.shape, width)).sum(dim=2)
