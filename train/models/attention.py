"""The attention of DELF (Noh et al., ICCV 2017) and of DELG (Cao, Araujo, Sim, ECCV 2020): which positions matter."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ATTENTION = 1e-6  # strengths are divided by the largest, and their logarithm is taken


class AttentionHead(nn.Module):
    """α(x) = softplus(w₂ᵀ·ReLU(W₁·x + b₁) + b₂) at every position, with C/2 hidden units (DELF, §4.2).

    Random weights would choose positions at random, and training would start from a system that finds nothing. So the
    head starts as the mean of a feature times √C: unit j adds the channels j and j + C/2, and w₂ adds the units over
    √C. As features are ≥ 0, that orders positions by their L1 norm, much as HOW's attention does by the L2 norm. It
    lies where softplus is close to a straight line, and all units are different, so that each can learn its own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv2 = nn.Conv2d(width, 1, 1)
        unit, channel = torch.arange(width)[:, None], torch.arange(channels)
        with torch.no_grad():
            self.conv1.weight.copy_((channel % width == unit)[:, :, None, None])
            self.conv2.weight.fill_(channels**-0.5)
        for convolution in (self.conv1, self.conv2):
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Features ≥ 0, [B, C, h, w] → their attention, above 0, [B, h, w]."""
        return F.softplus(self.conv2(F.relu(self.conv1(features)))).squeeze(1) + MIN_ATTENTION
