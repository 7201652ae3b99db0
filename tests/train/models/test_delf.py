"""DELF against the paper's equations, position by position."""

import math

import pytest
import torch
from torch import Tensor

from train.losses import contrastive_loss, match_loss
from train.models.attention import MIN_ATTENTION, AttentionHead
from train.models.base import ExtractionConfig, FeatureMap
from train.models.delf import DelfNetwork
from train.models.extractor import LocalExtractor
from train.models.local_model import LocalConfig

EXTRACTION = ExtractionConfig(image_size=64, scales=(1.0, 0.707), features=40)


def with_random_weights(network: DelfNetwork) -> DelfNetwork:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def network(tiny_backbone: str) -> DelfNetwork:
    torch.manual_seed(0)
    return with_random_weights(DelfNetwork(LocalConfig(backbone=tiny_backbone, dimensions=8)))


def images(height: int = 45, width: int = 60, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255


@torch.no_grad()
def test_attention_is_two_layers_and_softplus_at_every_position() -> None:
    torch.manual_seed(0)
    head = AttentionHead(6)
    for parameter in head.parameters():
        parameter.normal_()
    features = torch.rand(2, 6, 3, 4)
    found = head(features)
    assert found.shape == (2, 3, 4)
    first, second = head.conv1, head.conv2
    for image in range(2):
        for y in range(3):
            for x in range(4):
                hidden = (first.weight[:, :, 0, 0] @ features[image, :, y, x] + first.bias).clamp(min=0)
                score = float(second.weight[0, :, 0, 0] @ hidden + second.bias)
                wanted = math.log1p(math.exp(score))
                assert float(found[image, y, x]) == pytest.approx(wanted, rel=1e-4, abs=2 * MIN_ATTENTION)


@pytest.mark.parametrize("channels", [5, 6])
@torch.no_grad()
def test_attention_starts_in_the_order_of_the_features_sums(channels: int) -> None:
    torch.manual_seed(0)
    features = 20 * torch.rand(1, channels, 6, 7)
    found, sums = AttentionHead(channels)(features)[0].flatten(), features[0].sum(dim=0).flatten()
    assert torch.equal(found.argsort(), sums.argsort())
    torch.testing.assert_close(found, sums / channels**0.5, rtol=0.01, atol=0.1)


def test_the_units_of_a_new_head_learn_different_things() -> None:
    torch.manual_seed(0)
    head = AttentionHead(8)
    (head(torch.rand(1, 8, 3, 3)) * torch.rand(3, 3)).sum().backward()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    optimiser.step()
    assert len({tuple(row.tolist()) for row in head.conv1.weight.detach().flatten(1)}) == 4


@torch.no_grad()
def test_descriptors_are_normalised_reduced_and_normalised_again(network: DelfNetwork) -> None:
    local = network(images())
    features = network.backbone(images())
    assert local.descriptors.shape == (1, 8, 12, 15)
    assert local.strengths.shape == (1, 12, 15)
    torch.testing.assert_close(local.strengths, network.attention(features))
    projection = network.whitening.projection
    assert projection.bias is not None
    for y, x in ((0, 0), (5, 7), (11, 14)):
        feature = features[0, :, y, x]
        reduced = projection.weight[:, :, 0, 0] @ (feature / feature.norm()) + projection.bias
        torch.testing.assert_close(local.descriptors[0, :, y, x], reduced / reduced.norm())


@torch.no_grad()
def test_whitening_is_learned_from_the_strongest_normalised_features(network: DelfNetwork) -> None:
    samples = network.whitening_samples(images(), 30)
    assert samples.features.shape == (30, 16)
    torch.testing.assert_close(samples.features.norm(dim=1), torch.ones(30))
    features, strengths = network.unwhitened(images())
    eligible = network.eligible(strengths, images())
    weakest = strengths[0][eligible].sort(descending=True).values[29]
    wanted = features[0].flatten(1)[:, ((strengths[0] >= weakest) & eligible).flatten()]
    assert sorted(samples.features.sum(dim=1).tolist()) == pytest.approx(sorted(wanted.sum(dim=0).tolist()))


def attention_alone(network: DelfNetwork, parts: list[FeatureMap]) -> list[FeatureMap]:
    """The maps with descriptors that have no gradient."""
    return [FeatureMap(part.descriptors.detach(), part.strengths) for part in parts]


@pytest.mark.parametrize("detached", [False, True])
def test_the_backbone_learns_from_descriptors_and_not_from_attention(network: DelfNetwork, detached: bool) -> None:
    maps = [FeatureMap(*(each[0] for each in network(images(seed=seed)))) for seed in range(4)]
    used = attention_alone(network, maps) if detached else maps
    match_loss(used[0], used[1], used[2:]).backward()
    assert network.attention.conv1.weight.grad is not None
    assert network.attention.conv1.weight.grad.abs().max() > 0
    gradient = network.backbone.get_parameter("conv1.weight").grad
    assert (gradient is None) == detached


def test_attention_learns_from_the_weighted_sum(network: DelfNetwork) -> None:
    query, positive, negative = (network.describe(images(seed=seed))[0] for seed in range(3))
    contrastive_loss(query, positive, negative[None], 2.0).backward()
    for parameter in network.attention.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert network.attention.conv1.weight.grad.abs().max() > 0  # type: ignore[union-attr]


def test_attention_learns_faster_than_the_backbone_and_whitening_not_at_all(network: DelfNetwork) -> None:
    groups = network.parameter_groups(10.0)
    assert [group["factor"] for group in groups] == [1.0, 10.0]
    learned = {id(p) for p in network.parameters() if p.requires_grad}
    assert learned == {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in network.attention.parameters()}


@torch.no_grad()
def test_a_photo_without_attention_has_finite_strengths(network: DelfNetwork) -> None:
    network.attention.conv2.bias.fill_(-1e4)  # type: ignore[union-attr]
    image = images()[0].permute(1, 2, 0).byte()
    outputs = network.extractor(EXTRACTION)(image)
    assert all(output.isfinite().all() for output in outputs)
    assert int(outputs[3]) == 40


@pytest.mark.slow
def test_the_extractor_traces_for_images_of_any_size(network: DelfNetwork) -> None:
    size = {0: torch.export.Dim("height", min=32, max=4096), 1: torch.export.Dim("width", min=32, max=4096)}
    extractor, image = network.extractor(EXTRACTION).eval(), images(288, 416)[0].permute(1, 2, 0).byte()
    assert isinstance(extractor, LocalExtractor)
    traced = torch.export.export(extractor, (image,), dynamic_shapes=(size,)).module()
    for height, width in ((45, 60), (64, 33)):
        smaller = image[:height, :width].contiguous()
        torch.testing.assert_close(traced(smaller), extractor(smaller))
