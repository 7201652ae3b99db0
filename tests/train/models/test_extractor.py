"""Extraction against a pyramid that is worked out scale by scale and position by position."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.models import graph
from train.models.extractor import LocalExtractor
from train.models.how import HowConfig, HowNetwork


class Candidate(NamedTuple):
    """One position of one scale."""

    strength: float
    x: float
    y: float
    scale: float
    descriptor: Tensor


def candidates(network: HowNetwork, image: Tensor, scales: tuple[float, ...]) -> list[Candidate]:
    """All positions of all scales, the strongest first."""
    found = []
    full_height, full_width = image.shape[:2]
    pixels = image.permute(2, 0, 1)[None].float()
    for scale in scales:
        height, width = math.floor(round(scale * full_height, 6)), math.floor(round(scale * full_width, 6))
        resized = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
        local = network(resized)
        for row in range(local.strengths.shape[1]):
            for column in range(local.strengths.shape[2]):
                x = (network.backbone.stride * column + 0.5) * full_width / width - 0.5
                y = (network.backbone.stride * row + 0.5) * full_height / height - 0.5
                strength = float(local.strengths[0, row, column])
                found.append(Candidate(strength, x, y, scale, local.descriptors[0, :, row, column]))
    return sorted(found, key=lambda candidate: candidate.strength, reverse=True)


@pytest.fixture
def network(tiny_config: HowConfig) -> HowNetwork:
    """Which takes all positions, as HOW's own."""
    torch.manual_seed(0)
    return HowNetwork(replace(tiny_config, border=True)).eval()


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


SCALES = (2.0, 1.414, 1.0, 0.707, 0.353)


@torch.no_grad()
def test_the_strongest_positions_of_a_plain_pyramid(network: HowNetwork) -> None:
    image = noise(37, 61)
    descriptors, strengths, positions, count = LocalExtractor(network, SCALES, 150)(image)
    reference = candidates(network, image, SCALES)[:150]
    assert count.tolist() == [150]
    torch.testing.assert_close(strengths, torch.tensor([c.strength for c in reference]) / reference[0].strength)
    torch.testing.assert_close(descriptors, torch.stack([c.descriptor for c in reference]))
    expected = torch.tensor([(c.x, c.y, c.scale) for c in reference])
    torch.testing.assert_close(positions, expected, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_positions_at_the_border_are_no_features(network: HowNetwork, tiny_config: HowConfig) -> None:
    """A stride of each level is left out along all four sides, and nothing else."""
    image, stride = noise(37, 61), network.backbone.stride
    inner = HowNetwork(tiny_config).eval()
    inner.load_state_dict(network.state_dict())
    _, _, positions, count = LocalExtractor(inner, SCALES, 1000)(image)

    def inside(side: int) -> int:
        return sum(stride <= pixel < side - stride for pixel in range(0, side, stride))

    sides = [(int(round(37 * scale, 6)), int(round(61 * scale, 6))) for scale in SCALES]
    assert int(count) == sum(inside(height) * inside(width) for height, width in sides)
    for scale in SCALES:
        x, y = positions[: int(count)][positions[: int(count), 2] == scale, :2].T
        assert min(x.min(), y.min(), 60 - x.max(), 36 - y.max()) > (stride - 1) / scale


@torch.no_grad()
def test_a_known_image_size_spares_a_graph_nodes_and_changes_nothing(
    tiny_config: HowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = HowNetwork(replace(tiny_config, refine="graph", graph_nodes=900)).eval()
    chosen: list[int] = []
    choose = graph.choose_nodes
    monkeypatch.setattr(graph, "choose_nodes", lambda *given: (chosen.append(given[2]), choose(*given))[1])
    image, scales = noise(40, 56), (2.0, 1.0, 0.5, 0.1)
    spared, plain = (LocalExtractor(network, scales, 100, size)(image) for size in (56, None))
    for there, here in zip(spared, plain, strict=True):
        torch.testing.assert_close(there, here)
    sides = [math.ceil(side / network.backbone.stride) for side in (112, 56, 28)]
    assert chosen == [side**2 for side in sides] + [network.config.graph_neighbours + 1] + [900] * 4


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 3)])
@torch.no_grad()
def test_fewer_positions_than_features_are_padded_with_zeros(network: HowNetwork, height: int, width: int) -> None:
    image = noise(height, width)
    scales = (1.0, 0.707)
    descriptors, strengths, positions, count = LocalExtractor(network, scales, 200)(image)
    reference = candidates(network, image, scales)
    n = int(count)
    assert n == len(reference) < 200
    assert (descriptors.shape, strengths.shape, positions.shape) == ((200, 8), (200,), (200, 3))
    torch.testing.assert_close(descriptors[:n], torch.stack([c.descriptor for c in reference]))
    assert strengths[:n].min() > 0
    for padding in (descriptors[n:], strengths[n:], positions[n:]):
        assert not padding.any()


@torch.no_grad()
def test_strengths_fall_from_one(network: HowNetwork) -> None:
    _, strengths, _, _ = LocalExtractor(network, SCALES, 100)(noise(48, 48))
    assert strengths[0] == 1
    assert (strengths.diff() <= 0).all()
    assert strengths.min() > 0


@pytest.mark.parametrize("scale", [2.0, 1.414, 1.0, 0.707, 0.5])
@pytest.mark.parametrize(("x", "y"), [(60, 36), (96, 20), (13, 70)])
@torch.no_grad()
def test_a_bright_spot_is_found_where_it_is(network: HowNetwork, scale: float, x: int, y: int) -> None:
    for module in network.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.1)
    image = torch.zeros(90, 120, 3, dtype=torch.uint8)
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    extractor = LocalExtractor(network, (scale,), 9)
    _, strengths, positions, _ = extractor(image)
    centre = (positions[:, :2] * strengths[:, None]).sum(dim=0) / strengths.sum()
    assert (positions[0, :2] - torch.tensor([x, y])).abs().max() <= network.backbone.stride / scale / 2 + 1
    assert (centre - torch.tensor([x, y])).abs().max() <= network.backbone.stride / scale / 2 + 1


@torch.no_grad()
def test_a_black_photo_has_finite_descriptors(network: HowNetwork) -> None:
    descriptors, strengths, _, _ = LocalExtractor(network, SCALES, 50)(torch.zeros(64, 64, 3, dtype=torch.uint8))
    assert descriptors.isfinite().all()
    assert strengths.isfinite().all()
