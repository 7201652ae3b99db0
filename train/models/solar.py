"""SOLAR (Ng, Balntas, Tian, Mikolajczyk, ECCV 2020): GeM with second-order attention and second-order similarity.

backbone with second-order attention after its last stages → GeM → L2 → whitening → L2. The attention lets every
position see how all others of the map relate to it; the loss compares, beside distances, how two photos of a place lie
to the same photo of another.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from train.losses import triplet_loss
from train.models.gem import GemConfig, GemNetwork

MIN_STRIDE = 16  # of a map with attention: a finer one relates too many pairs of positions
REDUCTIONS = {16: 4, 32: 2}  # k at each stride: C/k channels in the attention, as the authors' code has it
SECOND_ORDER_WEIGHT = 10.0  # λ of the loss


class SecondOrderAttention(nn.Module):
    """z = v(A·h) + x with A = softmax(qᵀk / √m), over the N positions of a map (second-order attention).

    f, g and h give queries, keys and values of m channels each. v starts at zero, so the module starts as the identity,
    and a network that was trained without it is not disturbed.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        width = max(1, channels // reduction)
        self.f = _projection(channels, width)
        self.g = _projection(channels, width)
        self.h = nn.Conv2d(channels, width, 1)
        self.v = nn.Conv2d(width, channels, 1)
        for convolution in (self.f[0], self.g[0], self.h):
            nn.init.kaiming_normal_(convolution.weight)  # type: ignore[arg-type]
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.v.weight)
        nn.init.zeros_(self.v.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → the same shape."""
        queries, keys, values = (layer(features).flatten(2) for layer in (self.f, self.g, self.h))
        weights = (queries.transpose(1, 2) @ keys * queries.shape[1] ** -0.5).softmax(dim=2)  # [B, N, N]
        seen = (values @ weights.transpose(1, 2)).unflatten(2, features.shape[2:])
        return features + self.v(seen)

    def train(self, mode: bool = True) -> "SecondOrderAttention":
        """Switches to training, except BatchNorm, whose statistics stay as they are, as in the backbone."""
        super().train(mode)
        for norm in (self.f[1], self.g[1]):
            norm.eval()
        return self


def second_order_loss(photos: Sequence[tuple[Tensor, ...]], margin: float) -> Tensor:
    """Triplet loss + λ·√Σ (‖q − n‖² − ‖p − n‖²)², the sum over the negatives n (second-order similarity).

    A negative is to lie as far from one photo of a place as from the other. The authors take the root over all tuples
    of a step together. Here it is over each, and a step's gradient the sum of its tuples', as with the other losses.

    Args:
        photos: the L2-normalised descriptor [D] of a query, of a photo of the same place, and of others, the negatives.
        margin: of the triplet loss, in squared distances.

    Returns:
        a scalar: the sum over the tuple.
    """
    descriptors = torch.stack([descriptor for (descriptor,) in photos])
    query, positive, negatives = descriptors[0], descriptors[1], descriptors[2:]
    differences = (query - negatives).square().sum(dim=1) - (positive - negatives).square().sum(dim=1)
    second_order = (differences.square().sum() + 1e-12).sqrt()  # the root has no gradient at 0
    return triplet_loss(query, positive, negatives, margin) + SECOND_ORDER_WEIGHT * second_order


class SolarNetwork(GemNetwork):
    """GeM whose backbone has attention after its sections of stride 16 and 32, or after the last if it has none."""

    system = "solar"
    summary = "one global descriptor, with second-order attention"
    losses = ("second-order",)
    own_losses: ClassVar = {"second-order": second_order_loss}
    margin = 1.25
    parts: ClassVar = {**GemNetwork.parts, "attention": ("backbone",)}

    def __init__(self, config: GemConfig) -> None:
        super().__init__(config)
        sections = self.backbone.sections()
        coarse = [section for section in sections if section.stride >= MIN_STRIDE] or sections[-1:]
        self.attention = nn.ModuleDict(
            {of.name: SecondOrderAttention(of.channels, REDUCTIONS.get(of.stride, 2)) for of in coarse}
        )

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images, self.attention)

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        """The attention learns as fast as the exponent p; the authors train nothing else (``--freeze-backbone``)."""
        attention = {"params": list(self.attention.parameters()), "factor": new_module_factor}
        return [*super().parameter_groups(new_module_factor), attention]


def _projection(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU())
