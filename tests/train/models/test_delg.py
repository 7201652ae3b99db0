"""DELG against the paper's equations: one pass, two descriptors, and a backbone that local ones do not teach."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import UsageError
from runtime.vectors import InnerProduct
from train.backbones import BUILDERS, build_backbone
from train.backbones.resnet import BasicBlock, ResNet
from train.losses import TupleLoss, contrastive_loss
from train.models.base import ExtractionConfig
from train.models.delg import DelgConfig, DelgNetwork, delg_loss, nearest_to_one
from train.models.extractor import exact, extract, resize
from train.models.gem import GemConfig, GemNetwork
from train.models.whitening import Moments

SCALES = (1.414, 1.0, 0.707, 0.5)
EXTRACTION = ExtractionConfig(image_size=96, scales=SCALES, features=30)


def with_random_weights(network: DelgNetwork) -> DelgNetwork:
    with torch.no_grad():
        for module in (network.autoencoder, network.attention):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> DelgNetwork:
    torch.manual_seed(0)
    monkeypatch.setitem(BUILDERS, "small", lambda: ResNet(BasicBlock, depths=(1, 1, 1, 1)))
    config = DelgConfig(backbone="small", dimensions=16, local_dimensions=24)
    return with_random_weights(DelgNetwork(config))


def photo(height: int = 75, width: int = 96, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_images(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(
    ("backbone", "section", "channels"),
    [
        ("resnet18", "layer3", 256),
        ("resnet18_stride16", "layer3", 256),
        ("resnet50_stride32", "layer3", 1024),
        ("efficientnet_lite0", "stride16", 224),
        ("efficientnet_lite0_stride32", "stride16", 224),
    ],
)
def test_local_features_are_those_of_the_section_of_stride_16(backbone: str, section: str, channels: int) -> None:
    network = DelgNetwork(DelgConfig(backbone=backbone, dimensions=8)).eval()
    assert (network.section, network.local_stride, network.autoencoder.encoder.in_channels) == (section, 16, channels)
    with torch.no_grad():
        features, local = network.maps(torch.rand(1, 3, 64, 96) * 255)
    assert local.shape == (1, channels, 4, 6)
    assert features.shape == (
        1,
        network.backbone.channels,
        64 // network.backbone.stride,
        96 // network.backbone.stride,
    )
    assert local.min() >= 0


@torch.no_grad()
def test_the_autoencoder_starts_from_pca_of_the_local_map(network: DelgNetwork) -> None:
    features = network.calibration_samples(as_images(photo(160, 160)))
    assert features.shape == (100, 256)
    moments = Moments(256)
    moments.add(features.numpy())
    network.start_from(moments)
    _, _, bases = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
    projected = (features - features.mean(dim=0)) @ bases[:24].T
    local = features.T[None, :, :, None]
    descriptors, reconstruction = network.autoencoder(local)
    torch.testing.assert_close(descriptors[0, :, :, 0].norm(dim=0), projected.norm(dim=1), rtol=1e-3, atol=1e-3)
    wanted = (projected @ bases[:24] + features.mean(dim=0)).clamp(min=0)
    torch.testing.assert_close(reconstruction[0, :, :, 0].T, wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_local_descriptor_is_the_code_and_attention_sees_the_reconstruction(network: DelgNetwork) -> None:
    _, local = network.maps(as_images(photo()))
    found = network.local_features(local)
    encoder, decoder = network.autoencoder.encoder, network.autoencoder.decoder
    for y, x in ((0, 0), (2, 3)):
        code = encoder.weight[:, :, 0, 0] @ local[0, :, y, x] + encoder.bias
        again = (decoder.weight[:, :, 0, 0] @ code + decoder.bias).clamp(min=0)
        torch.testing.assert_close(found.descriptors[0, :, y, x], code / code.norm())
        score = network.attention(again[None, :, None, None])
        torch.testing.assert_close(found.strengths[0, y, x], score[0, 0, 0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_global_descriptor_is_gem_s(network: DelgNetwork) -> None:
    settings = {name: getattr(network.config, name) for name in ("backbone", "dimensions", "exponent")}
    gem = GemNetwork(GemConfig(**settings)).eval()
    gem.load_state_dict({k: v for k, v in network.state_dict().items() if k in gem.state_dict()})
    images = as_images(photo())
    torch.testing.assert_close(network.describe(images), gem.describe(images))
    torch.testing.assert_close(network.compared(images)[0], gem.describe(images))


@torch.no_grad()
def test_sums_and_errors_are_of_the_local_map(network: DelgNetwork) -> None:
    images = as_images(photo())
    _, local = network.maps(images)
    code = network.autoencoder.encoder(local)
    again = network.autoencoder.decoder(code).clamp(min=0)
    total, squares = torch.zeros(local.shape[1]), 0.0
    for y in range(local.shape[2]):
        for x in range(local.shape[3]):
            feature = local[0, :, y, x]
            total += network.attention(again)[0, y, x] * feature / feature.norm()
            squares += float((feature - again[0, :, y, x]).square().sum())
    _, attended, errors = network.compared(images)
    torch.testing.assert_close(attended[0], total / total.norm(), rtol=1e-4, atol=1e-5)
    assert float(errors[0]) == pytest.approx(squares / local.numel(), rel=1e-4)


def test_the_loss_is_two_contrastive_ones_and_ten_times_the_error() -> None:
    random = torch.Generator().manual_seed(0)
    whole, attended = (F.normalize(torch.rand(5, 4, generator=random)) for _ in range(2))
    errors = torch.rand(5, generator=random)
    wanted = contrastive_loss(whole[0], whole[1], whole[2:], 1.1)
    wanted = wanted + contrastive_loss(attended[0], attended[1], attended[2:], 0.85) + 10 * errors.sum() / 5
    torch.testing.assert_close(delg_loss(list(zip(whole, attended, errors, strict=True)), 1.1), wanted)


def gradients_of(network: DelgNetwork, loss: Tensor) -> set[str]:
    """The parts of the network that a loss teaches."""
    network.zero_grad()
    loss.backward()
    return {
        name.partition(".")[0]
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def test_each_term_teaches_its_own_part_of_the_network(network: DelgNetwork) -> None:
    images = torch.cat([as_images(photo(64, 96, seed)) for seed in range(3)])
    whole, attended, errors = network.compared(images)
    assert gradients_of(network, contrastive_loss(whole[0], whole[1], whole[2:], 2.0)) == {"backbone"}
    whole, attended, errors = network.compared(images)
    assert gradients_of(network, errors.sum()) == {"autoencoder"}
    whole, attended, errors = network.compared(images)
    taught = gradients_of(network, contrastive_loss(attended[0], attended[1], attended[2:], 2.0))
    assert taught == {"autoencoder", "attention"}


def test_a_tuple_of_images_of_several_sizes_has_its_loss(network: DelgNetwork) -> None:
    images = [photo(64, 96, 0), photo(96, 64, 1), photo(64, 96, 2), photo(64, 64, 3)]
    wanted = delg_loss([tuple(part[0] for part in network.compared(as_images(image))) for image in images], 1.25)
    torch.testing.assert_close(TupleLoss(network, "delg", 1.25)(images), wanted)


def test_the_exponent_stays_and_new_modules_learn_faster(network: DelgNetwork) -> None:
    groups = network.parameter_groups(10.0)
    assert [group["factor"] for group in groups] == [1.0, 10.0]
    learned = {id(p) for p in network.parameters() if p.requires_grad}
    assert learned == {id(p) for group in groups for p in group["params"]}
    assert not network.pooling.p.requires_grad


@pytest.mark.parametrize(
    ("scales", "wanted"),
    [
        ((2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25), {1.414, 1.0, 0.707}),
        ((1.0, 0.707, 0.5, 0.353, 0.25), {1.0, 0.707, 0.5}),
        ((0.25,), {0.25}),
    ],
)
def test_the_global_descriptor_is_of_the_three_scales_nearest_to_1(scales: tuple, wanted: set) -> None:
    assert set(nearest_to_one([exact(scale) for scale in scales])) == {exact(scale) for scale in wanted}


@torch.no_grad()
@pytest.mark.parametrize("pyramid", ["whitened", "pooled"])
def test_the_extractor_gives_both_of_one_pyramid(network: DelgNetwork, pyramid: str) -> None:
    network.config = replace(network.config, pyramid=pyramid)  # type: ignore[arg-type]
    features = extract(network.extractor(EXTRACTION), photo())
    local, whole = features.need_local(), features.need_global()
    pixels = as_images(photo())
    levels = [resize(pixels, exact(scale), network.backbone.alignment) for scale in (1.414, 1.0, 0.707)]
    np.testing.assert_allclose(whole, network.of_pyramid(levels), atol=1e-5)

    assert (local.descriptors.shape, local.positions.shape) == ((30, 24), (30, 3))
    np.testing.assert_allclose(np.linalg.norm(local.descriptors, axis=1), 1, atol=1e-5)
    found = []
    for scale in SCALES:
        resized = resize(pixels, exact(scale), network.backbone.alignment)
        _, fine = network.maps(resized)
        strengths, descriptors = network.local_features(fine).strengths[0], network.local_features(fine).descriptors[0]
        for y in inner(fine.shape[2], resized.shape[2]):
            for x in inner(fine.shape[3], resized.shape[3]):
                there = [
                    (16 * cell + 0.5) * full / part - 0.5
                    for cell, full, part in ((x, 96, resized.shape[3]), (y, 75, resized.shape[2]))
                ]
                found.append((float(strengths[y, x]), *there, scale, descriptors[:, y, x].numpy()))
    found.sort(key=lambda each: -each[0])
    np.testing.assert_allclose(local.positions, [each[1:4] for each in found[:30]], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(local.strengths, [each[0] / found[0][0] for each in found[:30]], rtol=1e-4)
    np.testing.assert_allclose(local.descriptors, [each[4] for each in found[:30]], atol=1e-4)


def inner(cells: int, side: int) -> list[int]:
    """The positions along a side, on pixels 16·i, that are not at the border; all if there is no other."""
    return [cell for cell in range(cells) if 16 <= 16 * cell <= side - 17] or list(range(cells))


def test_it_is_searched_by_its_global_descriptor(network: DelgNetwork) -> None:
    stage = network.first_stage(None, None)
    assert isinstance(stage, InnerProduct)
    assert stage.dimensions == 16


def test_a_code_has_no_more_dimensions_than_the_map_channels(tiny_backbone: str) -> None:
    with pytest.raises(UsageError, match="--local-dimensions 17: the local map of tiny has 16 channels, no more"):
        DelgNetwork(DelgConfig(backbone=tiny_backbone, dimensions=8, local_dimensions=17))
    assert DelgConfig.for_training(tiny_backbone, 64).local_dimensions == build_backbone(tiny_backbone).channels


@pytest.mark.slow
def test_the_extractor_traces_for_images_of_any_size(tiny_backbone: str) -> None:
    """On a backbone of one section; the export's test has one of four."""
    torch.manual_seed(0)
    network = with_random_weights(DelgNetwork(DelgConfig(backbone=tiny_backbone, dimensions=8, local_dimensions=12)))
    size = {0: torch.export.Dim("height", min=32, max=4096), 1: torch.export.Dim("width", min=32, max=4096)}
    extractor = network.extractor(EXTRACTION).eval()
    traced = torch.export.export(extractor, (torch.from_numpy(photo(288, 416)),), dynamic_shapes=(size,)).module()
    for height, width in ((75, 96), (64, 33)):
        image = torch.from_numpy(photo(height, width))
        torch.testing.assert_close(traced(image), extractor(image))
