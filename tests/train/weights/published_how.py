"""Files in the layout of HOW's own checkpoints, and HOW's inference over them, written out plainly.

Nothing of ours takes part in ``how_inference``: it reads the published names and follows the paper, scale by scale.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.backbones import BUILDERS
from train.backbones.resnet import BasicBlock, Bottleneck, ResNet
from train.data.synthetic import render_view
from train.models.how import HowConfig, HowNetwork
from train.models.whitening import Moments

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SKIP = {"resnet18": 0, "resnet50": 1}
SCALES, FEATURES, IMAGE_SIZE, DIMENSIONS = [1.414, 0.5], 150, 128, 16

SMALL = {  # ResNets of the same blocks and names, a block a stage
    "resnet18": lambda: ResNet(BasicBlock, depths=(1, 1, 1)),
    "resnet50": lambda: ResNet(Bottleneck, depths=(1, 1)),
}


def use_small_resnets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ``build_backbone`` give these for one test."""
    for name, build in SMALL.items():
        monkeypatch.setitem(BUILDERS, name, build)


class Published(nn.Module):
    """The modules that give a state dict its names."""

    def __init__(self, network: HowNetwork) -> None:
        super().__init__()
        backbone = network.backbone
        stages = [backbone.get_submodule(name) for name in backbone.stages]
        self.features = nn.Sequential(backbone.conv1, backbone.bn1, nn.ReLU(), backbone.maxpool, *stages)
        self.dim_reduction = network.whitening.projection


@cache
def some_pixels() -> list[Tensor]:
    """Six photos, float [1, 3, height, width]."""
    photos = [render_view(1, scene, 0, width=160, height=128) for scene in range(6)]
    return [torch.from_numpy(photo).permute(2, 0, 1)[None].float() for photo in photos]


@torch.no_grad()
def batch_norm_at_random(network: nn.Module) -> None:
    """Gives every BatchNorm statistics and weights that have an effect."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1)
            module.bias.normal_(0, 0.3)


@torch.no_grad()
def random_how(architecture: str, dimensions: int = DIMENSIONS) -> HowNetwork:
    """HOW's network on a random backbone, with the whitening that its features need: every part has an effect."""
    torch.manual_seed(0)
    network = HowNetwork(HowConfig(backbone=architecture, dimensions=dimensions))
    batch_norm_at_random(network)
    moments = Moments(network.backbone.channels)
    for pixels in some_pixels():
        features, _ = network.eval().refined_features(pixels)
        moments.add(features[0].flatten(1).T.numpy())
    network.whitening.learn(moments)
    return network


def how_content(network: HowNetwork, *, older: bool = False) -> dict[str, Any]:
    """What a file of HOW's holds: as its training writes it, or in the older layout that it still reads."""
    architecture, dimensions = network.config.backbone, network.config.dimensions
    state = Published(network).state_dict()
    if older:
        state = {key.replace("dim_reduction", "whiten"): value for key, value in state.items()}
        settings = {"skip_layer": SKIP[architecture], "dim": dimensions, "feat_pool_k": 3}
        meta = {"architecture": architecture, "outputdim": dimensions, "mean": MEAN, "std": DEVIATION, **settings}
        return {"epoch": 19, "meta": meta, "state_dict": state}
    return {
        "epoch": 20,
        "meta": {"architecture": architecture, "backbone_dim": network.backbone.channels, "outputdim": dimensions},
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-6, "betas": (0.9, 0.999), "params": [0, 1]}]},
        "best_score": np.float64(88.1),
        "scores": defaultdict(list, {"local_descriptor": defaultdict(list, {"val_eccv20": [(5, np.float64(88.1))]})}),
        "net_params": {
            "architecture": architecture,
            "pretrained": True,
            "skip_layer": SKIP[architecture],
            "dim_reduction": {"dim": dimensions},
            "smoothing": {"kernel_size": 3},
            "runtime": {
                "mean_std": [MEAN, DEVIATION],
                "image_size": IMAGE_SIZE,
                "features_num": FEATURES,
                "scales": SCALES,
                "training_scales": [1],
            },
        },
        "_version": "how/2020",
    }


def write_how(path: Path, content: dict[str, Any]) -> Path:
    """The file; the older layout comes in the older container too, as PyTorch wrote it until 1.5."""
    torch.save(content, path, _use_new_zipfile_serialization="_version" in content)
    return path


class Local(NamedTuple):
    """Descriptors [n, D], attention [n], and the cell (x, y) and scale [n, 3] of each, the strongest first."""

    descriptors: Tensor
    strengths: Tensor
    cells: Tensor


@torch.no_grad()
def how_inference(state: dict[str, Tensor], image: Image, scales: Sequence[float], features: int) -> Local:
    """HOW's local descriptors of an RGB image."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    descriptors, strengths, cells = [], [], []
    for scale in scales:
        size = [int(side * scale) for side in pixels.shape[2:]]
        raw = resnet(state, F.interpolate(pixels, size, mode="bilinear", align_corners=False))
        whitened = F.conv2d(average_3x3(raw), state["dim_reduction.weight"], state["dim_reduction.bias"])
        for y in range(raw.shape[2]):
            for x in range(raw.shape[3]):
                descriptors.append(whitened[0, :, y, x])
                strengths.append((raw[0, :, y, x].pow(2).sum() + 1e-10).sqrt())
                cells.append(torch.tensor([x, y, scale]))
    weights = torch.stack(strengths) / max(strengths)
    kept = weights.sort(descending=True)[1][:features]
    return Local(torch.stack(descriptors)[kept], weights[kept], torch.stack(cells)[kept])


def average_3x3(maps: Tensor) -> Tensor:
    """The mean of a position and of those around it that are in the map."""
    ones = torch.ones(maps.shape[1], 1, 3, 3)
    count = F.conv2d(torch.ones_like(maps), ones, padding=1, groups=maps.shape[1])
    return F.conv2d(maps, ones, padding=1, groups=maps.shape[1]) / count


def resnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """torchvision's ResNet over ``features.N``: 0 and 1 the stem, from 4 on the layers."""
    x = F.max_pool2d(F.relu(batch_norm(state, "features.1", conv(state, "features.0", x, 2))), 3, 2, 1)
    layer = 4
    while f"features.{layer}.0.conv1.weight" in state:
        block = 0
        while f"features.{layer}.{block}.conv1.weight" in state:
            x = residual(state, f"features.{layer}.{block}", x, 2 if layer > 4 and block == 0 else 1)
            block += 1
        layer += 1
    return x


def residual(state: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """A block of two convolutions, or of three with the stride on the second."""
    convolutions = 3 if f"{name}.conv3.weight" in state else 2
    y = x
    for i in range(1, convolutions + 1):
        y = conv(state, f"{name}.conv{i}", y, stride if i == convolutions - 1 else 1)
        y = batch_norm(state, f"{name}.bn{i}", y)
        y = F.relu(y) if i < convolutions else y
    if f"{name}.downsample.0.weight" in state:
        x = batch_norm(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride))
    return F.relu(x + y)


def conv(state: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)


def batch_norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias
