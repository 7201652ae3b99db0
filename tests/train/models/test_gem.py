"""GeM against its formulas, and the promises that every system makes."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import UsageError
from runtime.features import Features
from runtime.vectors import InnerProduct
from train.models.base import ExtractionConfig
from train.models.extractor import extract, resize
from train.models.gem import GemConfig, GemNetwork, GemPooling
from train.models.whitening import Moments

EXTRACTION = ExtractionConfig(image_size=64, scales=(1.0, 0.707, 0.5), features=None)


@pytest.fixture
def network(tiny_backbone: str) -> GemNetwork:
    torch.manual_seed(0)
    return GemNetwork(GemConfig(backbone=tiny_backbone, dimensions=8)).eval()


def noise(height: int = 45, width: int = 60) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def as_images(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("p", [1.0, 3.0, 5.5])
def test_pooling_is_the_generalised_mean(p: float) -> None:
    features = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 6
    features[0, 0] = 0
    pooling = GemPooling(p)
    pooled = pooling(features)
    assert pooled.shape == (2, 3, 1, 1)
    for image in range(2):
        for channel in range(3):
            values = features[image, channel].flatten().tolist()
            expected = (sum(max(x, 1e-6) ** p for x in values) / len(values)) ** (1 / p)
            assert float(pooled[image, channel].detach()) == pytest.approx(expected, rel=1e-3)


def test_p_learns_from_features_that_are_zero() -> None:
    pooling = GemPooling(3.0)
    features = torch.zeros(1, 2, 3, 3)
    features[0, 0, 1] = 2
    features.requires_grad_()
    pooling(features).sum().backward()
    for gradient in (pooling.p.grad, features.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


@torch.no_grad()
def test_the_pipeline_is_pooling_whitening_and_a_norm_after_each(network: GemNetwork) -> None:
    images = as_images(noise())
    pooled = F.normalize(network.pooling(network.backbone(images)).flatten(1))
    projection = network.whitening.projection
    assert projection.bias is not None
    whitened = F.normalize(pooled @ projection.weight[:, :, 0, 0].T + projection.bias)
    torch.testing.assert_close(network.describe(images), whitened)
    assert network.describe(torch.cat([images, images])).shape == (2, 8)


@pytest.mark.parametrize(("height", "width"), [(45, 60), (64, 33)])
@torch.no_grad()
def test_the_extractor_averages_the_levels(network: GemNetwork, height: int, width: int) -> None:
    image = noise(height, width)
    scales = (Fraction(1), Fraction(707, 1000), Fraction(1, 2))
    levels = torch.cat([network(resize(as_images(image), scale)) for scale in scales])
    expected = F.normalize(levels.sum(dim=0), dim=0)
    features = extract(network.extractor(EXTRACTION), image.numpy())
    assert features.local is None
    found = features.need_global()
    assert (found.shape, found.dtype) == ((8,), np.float32)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@torch.no_grad()
def test_an_engine_with_activations_gives_the_map_of_the_level_nearest_to_1(network: GemNetwork) -> None:
    image = noise(45, 60)
    extraction = replace(EXTRACTION, scales=(1.414, 0.9, 0.5), activations=True)
    features = extract(network.extractor(extraction), image.numpy())
    alone = extract(network.extractor(replace(extraction, activations=False)), image.numpy())
    np.testing.assert_allclose(features.need_global(), alone.need_global(), atol=1e-6)
    assert alone.activations is None
    wanted = network.backbone(resize(as_images(image), Fraction(9, 10)))[0]
    np.testing.assert_allclose(features.need_activations(), wanted.numpy(), atol=1e-6)


@pytest.mark.slow
def test_the_extractor_traces_for_images_of_any_size(network: GemNetwork) -> None:
    size = {0: torch.export.Dim("height", min=32, max=4096), 1: torch.export.Dim("width", min=32, max=4096)}
    extractor = network.extractor(EXTRACTION).eval()
    traced = torch.export.export(extractor, (noise(288, 416),), dynamic_shapes=(size,))
    for height, width in ((45, 60), (64, 33)):
        torch.testing.assert_close(traced.module()(noise(height, width)), extractor(noise(height, width)))


@torch.no_grad()
def test_whitening_decorrelates_the_pooled_vectors(network: GemNetwork) -> None:
    moments = Moments(16)
    images = [as_images(noise(32 + i, 64 - i)) for i in range(20)]
    for image in images:
        samples = network.whitening_samples(image, 1000).features
        torch.testing.assert_close(samples.norm(dim=1), torch.ones(1))
        moments.add(samples.numpy())
    network.whitening.learn(moments, shrinkage=1.0)
    whitened = torch.cat([network.whitening(network.pooled(image)).flatten(1) for image in images]).numpy()
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-2)
    assert abs(np.corrcoef(whitened[:, :3].T) - np.eye(3)).max() < 0.05


def test_p_learns_faster_than_the_backbone_and_without_decay(network: GemNetwork) -> None:
    backbone, pooling = network.parameter_groups(10.0)
    assert [id(p) for p in backbone["params"]] == [id(p) for p in network.backbone.parameters()]
    assert [id(p) for p in pooling["params"]] == [id(network.pooling.p)]
    assert (backbone["factor"], pooling["factor"], pooling["weight_decay"]) == (1.0, 10.0, 0.0)
    learned = {id(p) for p in network.parameters() if p.requires_grad}
    assert learned == {id(p) for group in (backbone, pooling) for p in group["params"]}


def test_inner_products_search_its_descriptors(network: GemNetwork) -> None:
    first_stage = network.first_stage(None, None)
    assert isinstance(first_stage, InnerProduct)
    vectors = np.eye(3, 8, dtype=np.float32)
    features = [Features(global_descriptor=vector) for vector in vectors]
    database = first_stage.build([first_stage.encode_database(one) for one in features])
    assert database.scores(first_stage.encode_query(features[1])).tolist() == [0, 1, 0]


@torch.no_grad()
def test_folding_changes_the_precision_of_the_backbone_alone(network: GemNetwork) -> None:
    half = network.folded("fp16")
    assert next(half.backbone.parameters()).dtype == torch.float16
    assert half.whitening.projection.weight.dtype == torch.float32
    assert next(network.backbone.parameters()).dtype == torch.float32
    images = as_images(noise())
    assert torch.equal(network.folded("fp32").describe(images), network.describe(images))


def test_settings_of_larger_images_change_nothing(network: GemNetwork) -> None:
    assert network.config.fitted_to(replace(EXTRACTION, image_size=1024)) == network.config


def test_more_dimensions_than_channels_are_refused(tiny_backbone: str) -> None:
    with pytest.raises(UsageError, match="--dimensions 17: tiny has 16 channels"):
        GemNetwork(GemConfig(backbone=tiny_backbone, dimensions=17))
