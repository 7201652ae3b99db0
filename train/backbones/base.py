"""What the rest of the network knows of a backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Base of the backbones: normalises the image, leaves the layers to ``features``.

    Attributes:
        channels: number of feature channels C.
        stride: input pixels between neighbouring positions.
        alignment: the sides of an image on which the layers lie as they did in training are its multiples.
        float_layers: names of the modules that 8-bit quantisation leaves in float32, because their rounding errors cost
            more than their time.
        mixed_precision: run the layers under bfloat16 autocast; set by training on CUDA. The head stays in float32:
            whitening blows up what bfloat16 rounds off.
    """

    channels: int
    stride: int
    alignment: int = 1
    float_layers: tuple[str, ...] = ()
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mixed_precision = False
        # Not persistent: published state dicts do not know these.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """RGB image [B, 3, H, W], float in 0…255 → features ≥ 0, float32 [B, C, ⌈H/stride⌉, ⌈W/stride⌉].

        The layers run in the precision of their weights: a backbone in float16 computes in float16.
        """
        normalised = (image - self.mean.float()) / self.std.float()
        if self.mixed_precision:
            with torch.autocast(image.device.type, torch.bfloat16):
                return self.features(normalised).float()
        return self.features(normalised.to(self._precision())).float()

    def features(self, image: Tensor) -> Tensor:
        """The layers: normalised image → features that end in a ReLU."""
        raise NotImplementedError

    def first_position(self, side: int) -> int:
        """The input pixel on which position 0 lies, along a side of so many pixels; position i lies stride · i further.

        Where every layer pads symmetrically, with an odd kernel, that is pixel 0.
        """
        return 0

    def positions(self, cells: int, side: int, device: torch.device) -> Tensor:
        """The input pixels on which the rows or columns of a map lie: [cells], along a side of so many pixels."""
        return torch.arange(cells, device=device) * self.stride + self.first_position(side)

    def inside(self, features: Tensor, image: Tensor) -> Tensor:
        """Which positions lie a stride or more inside of the image: bool [h, w].

        What the others see is padding for a good part, and looks strong to a network that was trained on whole photos:
        without this rule they were 41 % of the strongest, on 16 % of the area (docs/experiments.md). Along a side that
        has no such position all are inside.

        Args:
            features: the map, [..., h, w].
            image: that it was made of, [..., H, W].
        """
        along = []
        for cells, side in zip(features.shape[-2:], image.shape[-2:], strict=True):
            pixels = self.positions(cells, side, features.device)
            is_inside = (pixels >= self.stride) & (pixels <= side - 1 - self.stride)
            along.append(is_inside | ~is_inside.any())
        return along[0][:, None] & along[1]

    def train(self, mode: bool = True) -> "Backbone":
        """Switches to training, except BatchNorm, whose running statistics stay as they are (HOW, §3.4)."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def _precision(self) -> torch.dtype:
        return next(self.parameters()).dtype
