"""SOLAR's attention and loss against their equations."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from train.losses import triplet_loss
from train.models.base import ExtractionConfig
from train.models.gem import GemConfig, GemNetwork
from train.models.solar import SecondOrderAttention, SolarNetwork, second_order_loss

EXTRACTION = ExtractionConfig(image_size=64, scales=(1.0, 0.707), features=None)


@pytest.fixture
def network(tiny_backbone: str) -> SolarNetwork:
    torch.manual_seed(0)
    return SolarNetwork(GemConfig(backbone=tiny_backbone, dimensions=8)).eval()


@pytest.fixture
def attention() -> SecondOrderAttention:
    torch.manual_seed(0)
    made = SecondOrderAttention(channels=6, reduction=2).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in made.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 2)
    return made


def images(height: int = 45, width: int = 60) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


@torch.no_grad()
def test_every_position_sees_all_others_by_their_similarity(attention: SecondOrderAttention) -> None:
    features = torch.rand(1, 6, 3, 4, generator=torch.Generator().manual_seed(0)) * 2
    q, k, v = (layer(features)[0] for layer in (attention.f, attention.g, attention.h))
    wanted = features.clone()
    for y in range(3):
        for x in range(4):
            weights = torch.tensor(
                [[float(q[:, y, x] @ k[:, j, i]) / 3**0.5 for i in range(4)] for j in range(3)]
            ).exp()
            seen = (v * weights / weights.sum()).sum(dim=(1, 2))
            wanted[0, :, y, x] += attention.v.weight[:, :, 0, 0] @ seen + attention.v.bias
    torch.testing.assert_close(attention(features), wanted)


@torch.no_grad()
def test_it_starts_as_gem(network: SolarNetwork, tiny_backbone: str) -> None:
    gem = GemNetwork(GemConfig(backbone=tiny_backbone, dimensions=8)).eval()
    gem.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("attention.")})
    torch.testing.assert_close(network.describe(images()), gem.describe(images()))


@pytest.mark.parametrize(
    ("backbone", "wanted"),
    [
        ("resnet18", {"layer3": (256, 64), "layer4": (512, 256)}),
        ("resnet50", {"layer3": (1024, 256)}),
        ("resnet50_stride32", {"layer3": (1024, 256), "layer4": (2048, 1024)}),
        ("efficientnet_lite0", {"stride16": (224, 56)}),
        ("efficientnet_lite0_stride32", {"stride16": (112, 28), "stride32": (1280, 640)}),
    ],
)
def test_attention_follows_the_sections_of_stride_16_and_32(backbone: str, wanted: dict) -> None:
    attention = SolarNetwork(GemConfig(backbone=backbone, dimensions=8)).attention
    found = {name: (each.h.in_channels, each.h.out_channels) for name, each in attention.items()}  # type: ignore[union-attr]
    assert found == wanted


def test_training_leaves_its_batch_norm_statistics_alone(network: SolarNetwork) -> None:
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train().describe(images()).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_attention_and_exponent_learn_faster_than_the_backbone(network: SolarNetwork) -> None:
    groups = network.parameter_groups(10.0)
    assert [group["factor"] for group in groups] == [1.0, 10.0, 10.0]
    learned = {id(p) for p in network.parameters() if p.requires_grad}
    assert learned == {id(p) for group in groups for p in group["params"]}


def test_the_loss_is_the_triplet_s_and_ten_times_the_second_order_one() -> None:
    random = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.rand(5, 4, generator=random))
    q, p, *negatives = vectors
    triplets, squares = 0.0, 0.0
    for n in negatives:
        to_q, to_p = float((q - n).norm() ** 2), float((p - n).norm() ** 2)
        triplets += max(0.0, float((q - p).norm() ** 2) - to_q + 0.4)
        squares += (to_q - to_p) ** 2
    stacked = torch.stack(negatives)
    assert float(triplet_loss(q, p, stacked, 0.4)) == pytest.approx(triplets, rel=1e-5)
    assert float(second_order_loss([(vector,) for vector in vectors], 0.4)) == pytest.approx(
        triplets + 10 * squares**0.5, rel=1e-5
    )


def test_the_loss_of_a_photo_and_itself_has_a_gradient() -> None:
    q = F.normalize(torch.ones(4), dim=0).requires_grad_()
    second_order_loss([(q,), (q.detach(),), *((other,) for other in torch.eye(4)[:2])], 0.4).backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


@pytest.mark.slow
def test_the_extractor_traces_for_images_of_any_size(network: SolarNetwork) -> None:
    with torch.no_grad():
        for each in network.attention.values():
            each.v.weight.normal_()  # type: ignore[union-attr]
    size = {0: torch.export.Dim("height", min=32, max=4096), 1: torch.export.Dim("width", min=32, max=4096)}
    extractor, image = network.extractor(EXTRACTION).eval(), (images(288, 416)[0].permute(1, 2, 0)).byte()
    traced = torch.export.export(extractor, (image,), dynamic_shapes=(size,)).module()
    for height, width in ((45, 60), (64, 33)):
        smaller = image[:height, :width].contiguous()
        torch.testing.assert_close(traced(smaller), extractor(smaller))
