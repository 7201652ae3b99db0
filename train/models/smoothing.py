"""Smoothing h(·): HOW's 3×3 average, and the learnable Gaussian with a self-confidence of Seo & Han 2024."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Where learning starts: a bandwidth near 0 and a confidence near 1 give HOW's average. At exactly 0 and 1 the gradients
# of softplus and sigmoid vanish.
INITIAL_BANDWIDTH = 0.01
INITIAL_CONFIDENCE = 0.99
RAW_BANDWIDTH = math.log(math.expm1(INITIAL_BANDWIDTH))  # softplus gives it back
RAW_CONFIDENCE = math.log(INITIAL_CONFIDENCE / (1 - INITIAL_CONFIDENCE))  # sigmoid gives it back

MIN_WEIGHT = 1e-6  # of a whole kernel: prevents 0/0 for c = 0 and b → ∞


class AverageSmoothing(nn.Module):
    """HOW's: the plain k×k average, padding not counted."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → the same shape."""
        return F.avg_pool2d(features, self.kernel, 1, self.kernel // 2, count_include_pad=False)


class LearnedSmoothing(nn.Module):
    """Method 2 of Seo & Han 2024: a Gaussian whose bandwidth and centre weight are learned.

        w(p, p) = c(p)    w(p, q) = exp(−b(p)·‖p−q‖²), q ≠ p    out(p) = Σ w(p,q)·x(q) / Σ w(p,q), q inside the map

    Positions at equal distance share a weight, so the kernel is a few constant rings mixed by exp(−b·d²): only
    fixed-size convolutions, no gather.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.rings = RingSums(kernel)
        self.bandwidth_head = nn.Conv2d(channels, 1, 1)
        self.confidence_head = nn.Conv2d(channels, 1, 1)
        for head, start in ((self.bandwidth_head, RAW_BANDWIDTH), (self.confidence_head, RAW_CONFIDENCE)):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, start)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → the same shape."""
        return gaussian_smoothing(features, self.bandwidth(features), self.confidence(features), self.rings)

    def bandwidth(self, features: Tensor) -> Tensor:
        """b(p) ≥ 0, [B, 1, h, w]; the larger, the narrower the kernel."""
        return F.softplus(self.bandwidth_head(features))

    def confidence(self, features: Tensor) -> Tensor:
        """c(p) in [0, 1], [B, 1, h, w]: the weight of the position itself."""
        return torch.sigmoid(self.confidence_head(features))


class SharedSmoothing(nn.Module):
    """The learned Gaussian with one bandwidth and one confidence for the whole map."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.rings = RingSums(kernel)
        self.raw_bandwidth = nn.Parameter(torch.tensor(RAW_BANDWIDTH))
        self.raw_confidence = nn.Parameter(torch.tensor(RAW_CONFIDENCE))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → the same shape."""
        return gaussian_smoothing(features, self.bandwidth(), self.confidence(), self.rings)

    def bandwidth(self) -> Tensor:
        """b ≥ 0, a scalar."""
        return F.softplus(self.raw_bandwidth)

    def confidence(self) -> Tensor:
        """c in [0, 1], a scalar."""
        return torch.sigmoid(self.raw_confidence)

    @torch.no_grad()
    def folded(self) -> "FixedSmoothing":
        """The same smoothing as one constant kernel, for export."""
        kernel = self.confidence() * self.rings.centre
        for squared_distance, ring in self.rings:
            kernel = kernel + torch.exp(-self.bandwidth() * squared_distance) * ring
        return FixedSmoothing(kernel)


class FixedSmoothing(nn.Module):
    """A constant kernel, normalised by the part of it that lies inside the map."""

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → the same shape."""
        weight = convolve_each_channel(torch.ones_like(features[:, :1]), self.kernel)
        return convolve_each_channel(features, self.kernel) / weight.clamp(min=MIN_WEIGHT)


class RingSums(nn.Module):
    """The k×k window as constant 0/1 kernels: the centre, and a ring for every squared distance from it."""

    centre: Tensor

    def __init__(self, kernel: int) -> None:
        super().__init__()
        offsets = torch.arange(kernel) - kernel // 2
        squared = offsets[:, None] ** 2 + offsets[None, :] ** 2
        self.squared_distances = [int(d) for d in squared.unique() if d > 0]
        self.register_buffer("centre", (squared == 0).float(), persistent=False)
        for d in self.squared_distances:
            self.register_buffer(f"ring_{d}", (squared == d).float(), persistent=False)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Pairs of squared distance and ring kernel [k, k], from the nearest ring to the farthest."""
        for d in self.squared_distances:
            yield d, self.get_buffer(f"ring_{d}")


def gaussian_smoothing(features: Tensor, bandwidth: Tensor, confidence: Tensor, rings: RingSums) -> Tensor:
    """The equation above: features [B, C, h, w]; bandwidth and confidence [B, 1, h, w], or scalars."""
    inside = torch.ones_like(features[:, :1])
    total = confidence * features
    weight = confidence * inside
    for squared_distance, ring in rings:
        w = torch.exp(-bandwidth * squared_distance)
        total = total + w * convolve_each_channel(features, ring)
        weight = weight + w * convolve_each_channel(inside, ring)
    return total / weight.clamp(min=MIN_WEIGHT)


def convolve_each_channel(features: Tensor, kernel: Tensor) -> Tensor:
    """Depthwise convolution of [B, C, h, w] with one kernel [k, k] for all channels, zero-padded to keep the size."""
    channels = features.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv2d(features, weight, padding=kernel.shape[-1] // 2, groups=channels)


def build_smoothing(kind: str, channels: int, kernel: int, bandwidth: str) -> nn.Module:
    """``average`` (HOW), ``learned`` (``bandwidth``: ``per-position`` or ``shared``) or ``none``."""
    if kind == "none":
        return nn.Identity()
    if kind == "average":
        return AverageSmoothing(kernel)
    return SharedSmoothing(kernel) if bandwidth == "shared" else LearnedSmoothing(channels, kernel)
