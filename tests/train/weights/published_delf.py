"""Files in the layout of DeLF-pytorch, and its inference, written out plainly.

Nothing of ours takes part in ``delf_inference``: it reads the published names and follows the authors' steps.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.backbones import BUILDERS
from train.backbones.resnet import UNIT_MEAN, UNIT_STD, Bottleneck, ResNet, resnet50_unit

from .published_how import Local, resnet

CHANNELS = 1024  # as published; fewer of the small network below
SMALL_CHANNELS = 512


def small_resnet50() -> ResNet:
    """A ResNet-50 of a block a stage, and without the stage of stride 16."""
    return ResNet(Bottleneck, depths=(1, 1), mean=UNIT_MEAN, std=UNIT_STD)


def use_small_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ``build_backbone`` give ``small_resnet50`` for one test."""
    monkeypatch.setitem(BUILDERS, "resnet50_unit", small_resnet50)


@torch.no_grad()
def delf_content(*, whole: bool = False) -> dict[str, Any]:
    """What a file of the second stage holds, with random weights."""
    torch.manual_seed(0)
    made: Any = resnet50_unit() if whole else small_resnet50()
    stages = [getattr(made, name) for name in made.stages]
    base = nn.Sequential(made.conv1, made.bn1, nn.ReLU(), made.maxpool, *stages)
    for module in base.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1)
            module.bias.normal_(0, 0.3)
    channels = made.channels
    attention = nn.ModuleDict({"conv1": nn.Conv2d(channels, channels // 2, 1), "conv2": nn.Conv2d(channels // 2, 1, 1)})
    classifier = nn.Conv2d(channels, 5, 1)
    return {
        "base": base.state_dict(),
        "attn": attention.state_dict(),
        "pool": {},
        "logits": classifier.state_dict(),
    }


def write_delf(path: Path, content: dict[str, Any]) -> Path:
    """The file, in the container that PyTorch wrote until 1.5, as the code's own version did."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@torch.no_grad()
def delf_inference(
    content: dict[str, Any], pca: tuple[Tensor, Tensor], image: Image, scales: Sequence[float], features: int
) -> Local:
    """Local descriptors of an RGB image: every position of every scale, the strongest by attention.

    ``pca`` is the mean [C] and the matrix [D, C]. Nothing is suppressed, and there is no threshold.
    """
    trunk = {f"features.{key}": value for key, value in content["base"].items()}
    attention = content["attn"]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255  # ToTensor, and no more
    descriptors, scores, cells = [], [], []
    for scale in scales:
        size = [int(side * scale) for side in pixels.shape[2:]]
        x = resnet(trunk, F.interpolate(pixels, size, mode="bilinear", align_corners=False))
        hidden = F.relu(F.conv2d(x, attention["conv1.weight"], attention["conv1.bias"]))
        score = F.softplus(F.conv2d(hidden, attention["conv2.weight"], attention["conv2.bias"]))
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                feature = x[0, :, row, column]
                reduced = pca[1] @ (feature / feature.norm() - pca[0])
                descriptors.append(reduced / reduced.norm())
                scores.append(score[0, 0, row, column])
                cells.append(torch.tensor([column, row, scale]))
    kept = torch.stack(scores).sort(descending=True)[1][:features]
    return Local(torch.stack(descriptors)[kept], torch.stack(scores)[kept], torch.stack(cells)[kept])
