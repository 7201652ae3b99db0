"""R-MAC against the definition of its regions, region by region."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import UsageError
from train.models.base import ExtractionConfig
from train.models.regions import region_maxima
from train.models.rmac import RmacConfig, RmacNetwork

EXTRACTION = ExtractionConfig(image_size=64, scales=(1.0, 0.707), features=None)


@pytest.fixture
def network(tiny_backbone: str) -> RmacNetwork:
    torch.manual_seed(0)
    return RmacNetwork(RmacConfig(backbone=tiny_backbone, dimensions=8)).eval()


def noise(height: int = 45, width: int = 60) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def as_images(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None].float()


def grid(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """The regions of a map, first row, first column and side, as cirtorch lays them out."""
    short, long = sorted((height, width))
    steps = torch.arange(2.0, 8.0)
    overlaps = (short**2 - short * (long - short) / (steps - 1)) / short**2
    extra = int((overlaps - 0.4).abs().argmin()) + 1 if long > short else 0
    regions = []
    for level in range(1, levels + 1):
        side = math.floor(2 * short / (level + 1))
        half = math.floor(side / 2 - 1)

        def begins(length: int, count: int, side: int = side, half: int = half) -> list[int]:
            step = (length - side) / (count - 1) if count > 1 else 0
            return [math.floor(half + k * step + 1e-6) - half for k in range(count)]

        rows = begins(height, level + (extra if height > width else 0))
        columns = begins(width, level + (extra if width > height else 0))
        regions += [(y, x, side) for y in rows for x in columns if side]
    return regions


def maxima_of(features: Tensor) -> Tensor:
    """A map [C, h, w] → the maxima of the whole and of each region, [R, C]."""
    parts = [features, *(features[:, y : y + side, x : x + side] for y, x, side in grid(*features.shape[1:]))]
    return torch.stack([part.amax(dim=(1, 2)) for part in parts])


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [
        (24, 24, 15),
        (24, 32, 21),
        (32, 18, 21),
        (16, 32, 27),
        (12, 32, 33),
        (32, 8, 45),
        (3, 4, 21),
        (1, 3, 5),
        (1, 1, 2),
    ],
)
def test_the_regions_are_those_of_the_grid(height: int, width: int, count: int) -> None:
    features = torch.rand(2, 5, height, width, generator=torch.Generator().manual_seed(0))
    maxima, exists = region_maxima(features)
    assert maxima.shape == (2, 5, 1 + 7 + 16 + 27)
    assert int(exists.sum()) == count
    assert (maxima[:, :, exists == 0] == 0).all()
    for image in range(2):
        found, wanted = maxima[image, :, exists > 0].T, maxima_of(features[image])
        assert sorted(found.tolist()) == sorted(wanted.tolist())


@pytest.mark.slow
def test_the_regions_are_those_of_the_grid_for_all_shapes() -> None:
    """Of values that rise to the right and downwards, and of others that fall, the maxima tell a region's corners."""
    for height in range(1, 26):
        for width in range(height, min(46, 7 * height // 2 + 1)):
            rising = torch.arange(float(height * width)).view(height, width)
            features = torch.stack([rising, height * width - rising, rising * 0 + 1])
            for turned in (features, features.transpose(1, 2)):
                maxima, exists = region_maxima(turned[None])
                assert sorted(maxima[0, :, exists > 0].T.tolist()) == sorted(maxima_of(turned).tolist()), turned.shape


@torch.no_grad()
def test_the_pipeline_is_maxima_whitening_and_a_sum_with_norms_between(network: RmacNetwork) -> None:
    images = as_images(noise())
    vectors = F.normalize(maxima_of(network.backbone(images)[0]))
    projection = network.whitening.projection
    assert projection.bias is not None
    weight = projection.weight[:, :, 0, 0]
    whitened = F.normalize(vectors @ weight.T + projection.bias).sum(dim=0)
    torch.testing.assert_close(network.describe(images)[0], F.normalize(whitened, dim=0))
    network.config = RmacConfig(backbone=network.config.backbone, dimensions=8, whitened="sum")
    pooled = F.normalize(vectors.sum(dim=0), dim=0)
    torch.testing.assert_close(network.describe(images)[0], F.normalize(weight @ pooled + projection.bias, dim=0))


@torch.no_grad()
def test_whitening_is_learned_from_the_regions_that_exist(network: RmacNetwork) -> None:
    images = as_images(noise())
    samples = network.whitening_samples(images, 1000).features
    wanted = F.normalize(maxima_of(network.backbone(images)[0]))
    assert sorted(samples.sum(dim=1).tolist()) == pytest.approx(sorted(wanted.sum(dim=1).tolist()))
    assert len(network.whitening_samples(images, 5).features) == 5


def test_the_backbone_learns_through_every_region(network: RmacNetwork) -> None:
    network.describe(as_images(noise()))[0, 0].backward()
    gradient = network.backbone.get_parameter("conv1.weight").grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.slow
def test_the_extractor_traces_for_images_of_any_size(network: RmacNetwork) -> None:
    size = {0: torch.export.Dim("height", min=32, max=4096), 1: torch.export.Dim("width", min=32, max=4096)}
    extractor = network.extractor(EXTRACTION).eval()
    traced = torch.export.export(extractor, (noise(288, 416),), dynamic_shapes=(size,)).module()
    for height, width in ((45, 60), (64, 33), (48, 48), (200, 40)):
        torch.testing.assert_close(traced(noise(height, width)), extractor(noise(height, width)))


def test_whitened_regions_cannot_be_averaged_before_they_are_whitened(tiny_backbone: str) -> None:
    with pytest.raises(UsageError, match="--pyramid pooled: regions are whitened before"):
        RmacConfig(backbone=tiny_backbone, pyramid="pooled")
