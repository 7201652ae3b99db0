"""The extractor of local features: an image's pyramid → its K strongest descriptors (HOW, §3.3).

Export traces this module, so that an engine and PyTorch share every line of it.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.engine.schema import LOCAL_OUTPUTS, features_of
from runtime.features import Features
from runtime.io.image import Image
from train.backbones import Backbone
from train.models.base import Extractor, FeatureMap, RetrievalModel
from train.models.graph import MAX_NODES, nodes_covering


class Level(NamedTuple):
    """All positions of one level of a photo's pyramid: descriptors [n, D], strengths [n], positions [n, 3]."""

    descriptors: Tensor
    strengths: Tensor
    positions: Tensor


class LocalExtractor(Extractor):
    """RGB image → K descriptors, their strengths and positions, and how many of the K rows are valid.

    Attributes:
        network: called with images [1, 3, H, W] and a bound on the positions of their map; gives a ``FeatureMap``, and
            says which of its positions are ``eligible``.
        scales: of the pyramid.
        features: K.
        image_size: longest side of the images, if it is known. A graph then has fewer nodes on small levels, and
            needs less time for them.
    """

    outputs: tuple[str, ...] = LOCAL_OUTPUTS

    def __init__(
        self, network: RetrievalModel, scales: Sequence[float], features: int, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.scales = [exact(scale) for scale in scales]
        self.features = features
        self.image_size = image_size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, uint8 [H, W, 3] → the strongest first.

        Returns:
            descriptors: float32 [K, D]; rows beyond ``count`` are zero.
            strengths: float32 [K], attention over the image's maximum; 0 beyond ``count``.
            positions: float32 [K, 3]: x, y in input pixels (the centre of the first is 0, 0) and scale.
            count: int32 [1], the number of valid rows, below K if the pyramid has fewer positions.
        """
        pixels = planes(image)
        return self.strongest([self.level(pixels, scale) for scale in self.scales])

    def level(self, pixels: Tensor, scale: Fraction) -> Level:
        """All features of one level of the pyramid."""
        resized = resize(pixels, scale, self.network.backbone.alignment)
        local: FeatureMap = self.network(resized, self._positions_at_most(scale))
        return self.of_level(local, resized, pixels, scale)

    def of_level(self, local: FeatureMap, resized: Tensor, pixels: Tensor, scale: Fraction) -> Level:
        """All positions of the map of one level of the pyramid."""
        eligible = self.network.eligible(local.strengths, resized)
        return Level(
            local.descriptors[0].flatten(1).transpose(0, 1),
            torch.where(eligible, local.strengths[0], -1.0).flatten(),
            self._positions(local.strengths, resized, pixels, scale),
        )

    def _positions_at_most(self, scale: Fraction) -> int:
        """How many positions the map of a level can have."""
        if self.image_size is None:
            return MAX_NODES
        return nodes_covering(scaled_side(self.image_size, scale), self.network.backbone.stride)

    def _positions(self, strengths: Tensor, resized: Tensor, pixels: Tensor, scale: Fraction) -> Tensor:
        """Where a level's positions lie in the input image, [n, 3]: x, y, scale."""
        y, x = cell_pixels(strengths, resized, pixels, self.network.backbone, self.network.local_stride)
        grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None], x.new_full((), float(scale))), dim=2)
        return grid.flatten(0, 1)

    def strongest(self, levels: Sequence[Level]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The K strongest of all levels; with K rows of padding there is a top-K for every image size."""
        descriptors, strengths, positions = (torch.cat(parts) for parts in zip(*levels, strict=True))
        padded = F.pad(strengths, (0, self.features), value=-1.0)
        best, chosen = padded.topk(self.features)
        valid = best >= 0
        chosen = chosen.clamp(max=strengths.shape[0] - 1)
        return (
            descriptors.index_select(0, chosen) * valid.unsqueeze(1),
            (best / best[:1]) * valid,
            positions.index_select(0, chosen) * valid.unsqueeze(1),
            valid.sum(dim=0, keepdim=True).to(torch.int32),
        )


def planes(image: Tensor) -> Tensor:
    """RGB uint8 [H, W, 3] → float [1, 3, H, W]; a cast is all that TensorRT can do with uint8."""
    return image.float().permute(2, 0, 1).unsqueeze(0)


@torch.no_grad()
def extract(extractor: Extractor, image: Image) -> Features:
    """PyTorch's answer for an image, RGB uint8 [H, W, 3], in the form of an engine's."""
    device = next(extractor.parameters()).device
    outputs = extractor(torch.from_numpy(image).to(device))
    return features_of({name: value.cpu().numpy() for name, value in zip(extractor.outputs, outputs, strict=True)})


def cell_pixels(
    level: Tensor, resized: Tensor, pixels: Tensor, backbone: Backbone, stride: int | None = None
) -> tuple[Tensor, Tensor]:
    """Where the rows and columns of a map lie: y [h] and x [w], in pixels of the image before it was resized.

    Resizing maps the pixels' centres, i + ½.

    Args:
        level: the map, [..., h, w].
        resized: what the network was given, [..., H', W'].
        pixels: the image before, [..., H, W].
        backbone: which knows where its positions lie in ``resized``.
        stride: of the map; None for that of the backbone's features.
    """
    y, x = (
        (backbone.positions(cells, part, pixels.device, stride) + 0.5) * (full / part) - 0.5
        for cells, full, part in zip(level.shape[-2:], pixels.shape[-2:], resized.shape[-2:], strict=True)
    )
    return y, x


def exact(scale: float) -> Fraction:
    """A scale as a fraction: the sizes of a pyramid are then whole-number arithmetic, the same in any engine."""
    return Fraction(scale).limit_denominator(1000)


def scaled_side(side: int, scale: Fraction) -> int:
    """⌊scale·side⌋."""
    return (side * scale.numerator) // scale.denominator


def aligned(side: int, alignment: int) -> int:
    """The multiple of ``alignment`` nearest to a side, at least one."""
    return side if alignment == 1 else alignment * torch.sym_max(1, (side + alignment // 2) // alignment)


def resize(pixels: Tensor, scale: Fraction, alignment: int = 1) -> Tensor:
    """[B, 3, H, W] → ⌊scale·H⌋ × ⌊scale·W⌋, bilinear without antialiasing, the ratio taken from the sizes, as HOW.

    Where the backbone has an alignment, the sides are the nearest multiples of it.
    """
    if scale == 1 and alignment == 1:
        return pixels
    height, width = (aligned(scaled_side(side, scale), alignment) for side in pixels.shape[-2:])
    return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
