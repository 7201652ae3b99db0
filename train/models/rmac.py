"""R-MAC (Tolias, Sicre, Jégou, ICLR 2016): the maxima of a map in regions at several scales, as one global descriptor.

backbone → maximum in each region → L2 → whitening → L2 → sum over the regions → L2. A photo's descriptor is the mean
over the scales of an image pyramid, normalised again.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from runtime.errors import UsageError
from train.models.base import WhiteningSamples, at_least, at_most
from train.models.global_model import GlobalConfig, GlobalModel, normalised
from train.models.regions import LEVELS, region_maxima

MAX_LEVELS = 6  # of the grid; a graph has all regions that any map can have


@dataclass(frozen=True)
class RmacConfig(GlobalConfig):
    """A backbone with R-MAC and whitening.

    Attributes:
        levels: of the grid of regions.
        whitened: regions, each before their sum, as in the paper; or their sum, as cirtorch's networks have it.

    Raises:
        UsageError: a value is out of range, or two do not go together.
    """

    levels: int = LEVELS
    whitened: Literal["regions", "sum"] = "regions"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, levels=self.levels)
        at_most(MAX_LEVELS, levels=self.levels)
        if (self.pyramid, self.whitened) == ("pooled", "regions"):
            raise UsageError("--pyramid pooled: regions are whitened before they are pooled; add --whitened sum")


class RmacNetwork(GlobalModel):
    """One image at one scale → its global descriptor."""

    system = "rmac"
    summary = "one global descriptor, of regions"
    whitenings = ("pca",)  # which region of another photo shows the same is not known
    Config = RmacConfig
    parts: ClassVar = {"backbone": ("backbone",), "whitening": ("dimensions",)}
    config: RmacConfig

    def regions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB images [B, 3, H, W], float in 0…255 → L2-normalised maxima [B, C, R, 1], and which regions exist, [R]."""
        maxima, exists = region_maxima(self.backbone(images), self.config.levels)
        return normalised(maxima).unsqueeze(3), exists

    def pooled(self, images: Tensor) -> Tensor:
        """The sum over the regions, unwhitened."""
        vectors, _ = self.regions(images)  # zeros where there is no region
        return normalised(vectors.sum(dim=2, keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        if self.config.whitened == "sum":
            return super().forward(images)
        vectors, exists = self.regions(images)
        whitened = normalised(self.whitening(vectors)).squeeze(3)
        return normalised((whitened * exists).sum(dim=2))

    def whitening_samples(self, image: Tensor, most: int) -> WhiteningSamples:
        """The regions of the photo, or their sum."""
        if self.config.whitened == "sum":
            return super().whitening_samples(image, most)
        vectors, exists = self.regions(image)
        return WhiteningSamples(vectors[0, :, exists > 0, 0].T[:most], None)

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        return [{"params": list(self.backbone.parameters()), "factor": 1.0}]
