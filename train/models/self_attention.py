"""Self-attention over the strongest positions of a map, in the graph's place (Seo & Han 2024 could not train it).

The nodes are the graph's (``train.models.graph``); here each hears from all others, by weights that are learned. It is
built so that it can start beside features and a whitening that are right already: what a block gives is added, and its
output projection is zero, so that a new block changes nothing. LayerNorm comes before the projections: strong positions
would else decide the softmax alone. Without all of this it does not train (docs/experiments.md).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.models.graph import MAX_NODES, choose_nodes
from train.models.local_model import attention

HEADS = 4


class SelfAttentionRefinement(nn.Module):
    """Refines the N strongest positions of a map in place; a new one leaves all as it is."""

    def __init__(self, channels: int, nodes: int, blocks: int, width: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.blocks = nn.ModuleList(SelfAttentionBlock(channels, width) for _ in range(blocks))

    def forward(self, features: Tensor, strengths: Tensor, positions_at_most: int = MAX_NODES) -> tuple[Tensor, Tensor]:
        """Features [B, C, h, w] and their attention [B, h, w] → both, refined, in the same shapes.

        The attention of a node grows as its norm does. ``positions_at_most`` is a bound on h·w. If it is below N, that
        many nodes give the same result in less time.
        """
        height, width = features.shape[-2:]
        positions, rows, is_node = choose_nodes(features, strengths, min(self.nodes, positions_at_most))
        nodes = positions.gather(1, rows)
        positions = positions.scatter(1, rows, torch.where(is_node.unsqueeze(2), self.refine(nodes, is_node), nodes))
        refined = positions[:, : height * width].transpose(1, 2).unflatten(2, (height, width)).contiguous()
        return refined, strengths * attention(refined) / attention(features)

    def refine(self, nodes: Tensor, is_node: Tensor) -> Tensor:
        """x = x + block(x), block after block, for nodes [B, N, C]; what is no node (padding) is not heard."""
        for block in self.blocks:
            nodes = nodes + block(nodes, is_node)
        return nodes


class SelfAttentionBlock(nn.Module):
    """Multi-head self-attention (Vaswani et al., NeurIPS 2017) of normalised nodes, without its residual."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, width) for _ in range(3))
        self.output = nn.Linear(width, channels)
        for parameter in self.output.parameters():  # a new block adds nothing
            nn.init.zeros_(parameter)

    def forward(self, nodes: Tensor, is_node: Tensor) -> Tensor:
        """Nodes [B, N, C], and which of them are heard, bool [B, N] → what is added to them, [B, N, C]."""
        x = self.norm(nodes)
        q, k, v = (layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=is_node[:, None, None, :])
        return self.output(heard.transpose(1, 2).flatten(2))
