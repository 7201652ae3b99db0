"""What the rest of the network knows of a backbone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Section(NamedTuple):
    """Layers between which and the next ones other modules may come.

    Attributes:
        name: to call it by.
        layers: a map [B, ?, ?, ?] → one of ``channels``, float [B, channels, h, w].
        channels: of its map.
        stride: input pixels between neighbouring positions of its map.
        is_signed: whether the map has values below 0 (``split_signs``).
    """

    name: str
    layers: Callable[[Tensor], Tensor]
    channels: int
    stride: int
    is_signed: bool = False


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

    def forward(
        self, image: Tensor, after: nn.ModuleDict | None = None, beside: str | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """RGB image [B, 3, H, W], float in 0…255 → features, float32 [B, C, ⌈H/stride⌉, ⌈W/stride⌉].

        The layers run in the precision of their weights: a backbone in float16 computes in float16.

        Args:
            image: of any size.
            after: modules that the maps of sections go through, by the sections' names; without one after the last
                section the features are ≥ 0.
            beside: the name of a section.

        Returns:
            the features; if a section is named, a pair of the features and of its map, float32.
        """
        normalised = (image - self.mean.float()) / self.std.float()
        if self.mixed_precision:
            with torch.autocast(image.device.type, torch.bfloat16):
                features, kept = self._through_sections(normalised, after, beside)
        else:
            features, kept = self._through_sections(normalised.to(self._precision()), after, beside)
        return features.float() if beside is None else (features.float(), kept.float())

    def _through_sections(self, x: Tensor, after: nn.ModuleDict | None, beside: str | None) -> tuple[Tensor, Tensor]:
        """The map of the last section, and that of the one named."""
        kept = x
        for section in self.sections():
            x = section.layers(x)
            if after is not None and section.name in after:
                x = after[section.name](x.float()).to(x.dtype)  # it is part of the head, which stays in float32
            if section.name == beside:
                kept = x
        return x, kept

    def sections(self) -> tuple[Section, ...]:
        """The layers in order; the last section ends in the features."""
        return (Section("features", self.features, self.channels, self.stride),)

    def features(self, image: Tensor) -> Tensor:
        """All layers, of a backbone that is one section: normalised image → features that end in a ReLU."""
        raise NotImplementedError

    def first_position(self, side: int, stride: int) -> int:
        """The input pixel on which position 0 of a map of that stride lies, along a side of so many pixels.

        Position i lies stride · i further. Where every layer pads symmetrically, with an odd kernel, that is pixel 0.
        """
        return 0

    def positions(self, cells: int, side: int, device: torch.device, stride: int | None = None) -> Tensor:
        """The input pixels on which the rows or columns of a map lie: [cells], along a side of so many pixels.

        ``stride`` is that of the map of a section; None for that of the features.
        """
        stride = stride or self.stride
        return torch.arange(cells, device=device) * stride + self.first_position(side, stride)

    def inside(self, features: Tensor, image: Tensor, stride: int | None = None) -> Tensor:
        """Which positions lie a stride or more inside of the image: bool [h, w].

        What the others see is padding for a good part, and looks strong to a network that was trained on whole photos:
        without this rule they were 41 % of the strongest, on 16 % of the area (docs/experiments.md). Along a side that
        has no such position all are inside.

        Args:
            features: the map, [..., h, w].
            image: that it was made of, [..., H, W].
            stride: of the map; None for that of the features.
        """
        along, stride = [], stride or self.stride
        for cells, side in zip(features.shape[-2:], image.shape[-2:], strict=True):
            pixels = self.positions(cells, side, features.device, stride)
            is_inside = (pixels >= stride) & (pixels <= side - 1 - stride)
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


def split_signs(signed: Tensor) -> Tensor:
    """The positive and the negative part of a map: [B, C, h, w] → [B, 2C, h, w], ≥ 0, of the same norm."""
    return F.relu(torch.cat([signed, -signed], dim=1))
