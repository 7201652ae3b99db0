"""What the rest of the network knows of a backbone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Section(NamedTuple):
    """Layers between which and the next ones other modules may come.

    Attributes:
        name: to call it by.
        layers: a map [B, ?, ?, ?] → one of ``channels``, float [B, channels, h, w].
        channels: of its map.
        stride: input pixels between neighbouring positions of its map.
    """

    name: str
    layers: Callable[[Tensor], Tensor]
    channels: int
    stride: int


class Backbone(nn.Module):
    """Base of the backbones: normalises the image, leaves the layers to ``features``, or to ``sections``.

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

    def forward(self, image: Tensor, after: nn.ModuleDict | None = None) -> Tensor:
        """RGB image [B, 3, H, W], float in 0…255 → features, float32 [B, C, ⌈H/stride⌉, ⌈W/stride⌉].

        The layers run in the precision of their weights: a backbone in float16 computes in float16.

        Args:
            image: of any size.
            after: modules that the maps of sections go through, by the sections' names; without one after the last
                section the features are ≥ 0.
        """
        normalised = (image - self.mean.float()) / self.std.float()
        if self.mixed_precision:
            with torch.autocast(image.device.type, torch.bfloat16):
                return self._through_sections(normalised, after).float()
        return self._through_sections(normalised.to(self._precision()), after).float()

    def _through_sections(self, x: Tensor, after: nn.ModuleDict | None) -> Tensor:
        for section in self.sections():
            x = section.layers(x)
            if after is not None and section.name in after:
                x = after[section.name](x.float()).to(x.dtype)  # it is part of the head, which stays in float32
        return x

    def sections(self) -> tuple[Section, ...]:
        """The layers in order; the last section ends in the features."""
        return (Section("features", self.features, self.channels, self.stride),)

    def features(self, image: Tensor) -> Tensor:
        """All layers, of a backbone that is one section: normalised image → features that end in a ReLU."""
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
