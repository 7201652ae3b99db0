"""ResNets (He et al., CVPR 2016) under torchvision's parameter names, without the classifier.

As HOW uses them: ResNet-18 whole (stride 32, 512 channels), ResNet-50 without its last stage (stride 16, 1024); and
ResNet-18 without its last too (stride 16, 256). As DeLF-pytorch trains it: ResNet-50 without its last stage, for pixels
in 0…1 that are not normalised. As global descriptors use them: ResNet-50, -101 and -152 whole (stride 32, 2048).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from train.backbones.base import Backbone, Section

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
UNIT_MEAN, UNIT_STD = (0.0,) * 3, (255.0,) * 3
STAGE_WIDTHS = (64, 128, 256, 512)


def resnet18() -> "ResNet":
    return ResNet(BasicBlock, depths=(2, 2, 2, 2))


def resnet18_stride16() -> "ResNet":
    return ResNet(BasicBlock, depths=(2, 2, 2))


def resnet50() -> "ResNet":
    return ResNet(Bottleneck, depths=(3, 4, 6))


def resnet50_unit() -> "ResNet":
    return ResNet(Bottleneck, depths=(3, 4, 6), mean=UNIT_MEAN, std=UNIT_STD)


def resnet50_stride32() -> "ResNet":
    return ResNet(Bottleneck, depths=(3, 4, 6, 3))


def resnet101_stride32() -> "ResNet":
    return ResNet(Bottleneck, depths=(3, 4, 23, 3))


def resnet152_stride32() -> "ResNet":
    return ResNet(Bottleneck, depths=(3, 8, 36, 3))


class ResNet(Backbone):
    """As many stages as ``depths`` has entries; the first keeps stride 4, each further one doubles it."""

    def __init__(
        self,
        block: "type[BasicBlock | Bottleneck]",
        depths: tuple[int, ...],
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        self.expansion = block.expansion
        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        for name, depth, width in zip(self.stages, depths, STAGE_WIDTHS, strict=False):
            blocks: list[nn.Module] = []
            for i in range(depth):
                blocks.append(block(channels, width, stride=2 if i == 0 and name != "layer1" else 1))
                channels = width * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.channels = channels
        self.stride = 4 * 2 ** (len(depths) - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def sections(self) -> tuple[Section, ...]:
        """The stages, by torchvision's names; the first one has the stem, too."""
        sections = [
            Section(name, self.get_submodule(name), width * self.expansion, 4 * 2**number)
            for number, (name, width) in enumerate(zip(self.stages, STAGE_WIDTHS, strict=False))
        ]
        return (sections[0]._replace(layers=self._stem_and_first_stage), *sections[1:])

    def _stem_and_first_stage(self, image: Tensor) -> Tensor:
        return self.get_submodule(self.stages[0])(self.maxpool(F.relu(self.bn1(self.conv1(image)))))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut; the stride sits on the 3×3, as in torchvision."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """A projection where the shape changes, nothing where it does not."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels))
