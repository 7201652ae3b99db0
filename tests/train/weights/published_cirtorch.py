"""Files in the layouts of cirtorch and SOLAR, and their inference, written out plainly.

Nothing of ours takes part in ``cirtorch_inference``: it reads the published names and follows the authors' steps.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.backbones import BUILDERS
from train.backbones.resnet import BasicBlock, ResNet
from train.models.gem import GemConfig
from train.models.registry import build_model

from .published_how import DEVIATION, MEAN, batch_norm, batch_norm_at_random, conv, residual, resnet

CHANNELS = 512
LAYER_SCALES, SCALES = (1, 2**0.5, 2**-0.5), (1, 2**-0.5, 0.5)

# The settings of each kind of file, and whether it comes with whitening learned after training.
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "gem": ({"pooling": "gem", "whitening": True}, False),
    "gem, Lw": ({"pooling": "gem"}, True),
    "gem, unwhitened": ({"pooling": "gem", "regional": False, "whitening": False}, False),
    "rmac": ({"pooling": "rmac", "whitening": True}, False),
    "rmac, Lw": ({"pooling": "rmac"}, True),
    "regional mac": ({"pooling": "mac", "regional": True}, False),
    "solar": ({"pooling": "gem", "whitening": True, "soa": True, "soa_layers": "45"}, False),
}
SYSTEMS = {"gem": "gem", "rmac": "rmac", "regional mac": "rmac", "solar": "solar"}


def use_small_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ``build_backbone`` give a ResNet-18 of a block a stage for one test."""
    monkeypatch.setitem(BUILDERS, "resnet18", lambda: ResNet(BasicBlock, depths=(1, 1, 1, 1)))


class Linear(nn.Module):
    """Names weight and bias of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS) / CHANNELS**0.5)
        self.bias = nn.Parameter(0.02 * torch.randn(CHANNELS))


class Pool(nn.Module):
    """The parameters of pooling."""

    def __init__(self, meta: dict[str, Any]) -> None:
        super().__init__()
        if meta["pooling"] == "gem":
            self.p = nn.Parameter(torch.tensor([2.6]))
        if meta.get("regional"):
            self.whiten = Linear()


class Published(nn.Module):
    """The modules that give a state dict its names."""

    def __init__(self, meta: dict[str, Any]) -> None:
        super().__init__()
        system = "solar" if meta.get("soa") else "gem"
        network: Any = build_model(system, GemConfig(backbone="resnet18", dimensions=8))
        made = network.backbone
        stages = [made.layer1, made.layer2, made.layer3, made.layer4]
        self.features: nn.Module = nn.Sequential(made.conv1, made.bn1, nn.ReLU(), made.maxpool, *stages)
        if system == "solar":
            self.features = nn.ModuleDict(
                {
                    "conv1": nn.Sequential(made.conv1, made.bn1),
                    "conv2_x": nn.Sequential(nn.ReLU(), made.maxpool, made.layer1),
                    **{f"conv{i + 2}_x": stages[i] for i in (1, 2, 3)},
                    "soa4": network.attention["layer3"],
                    "soa5": network.attention["layer4"],
                }
            )
        self.pool = Pool(meta)
        if meta.get("whitening"):
            self.whiten = Linear()


@torch.no_grad()
def cirtorch_content(kind: str) -> dict[str, Any]:
    """What a file of random weights holds."""
    settings, has_learned = KINDS[kind]
    torch.manual_seed(0)
    meta: dict[str, Any] = {"architecture": "resnet18", "mean": MEAN, "std": DEVIATION, "outputdim": CHANNELS}
    modules = Published(meta | settings)
    batch_norm_at_random(modules)
    for name, module in modules.named_modules():
        if name.endswith(".v"):
            module.weight.normal_(0, 0.1)
            module.bias.normal_(0, 0.1)
    if has_learned:
        random = np.random.default_rng(0)
        learned = {"m": random.random((CHANNELS, 1)) / 30, "P": random.normal(size=(CHANNELS, CHANNELS))}
        meta["Lw"] = {"retrieval-SfM-120k": {"ss": {"m": learned["m"], "P": 2 * learned["P"]}, "ms": learned}}
    return {"epoch": 30, "meta": meta | settings, "state_dict": modules.state_dict(), "min_loss": np.float64(3.5)}


def write_cirtorch(path: Path, content: dict[str, Any]) -> Path:
    """The file, in the container that PyTorch wrote until 1.5, as these were published."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@torch.no_grad()
def cirtorch_inference(content: dict[str, Any], image: Image) -> Tensor:
    """The descriptor [D] of an RGB image at the scales of the README, as cirtorch's ``extract_vectors`` gives it."""
    meta, state = content["meta"], content["state_dict"]
    has_layer = meta.get("whitening") or meta.get("regional")
    scales: Sequence[float] = LAYER_SCALES if has_layer else SCALES
    power = float(state["pool.p"]) if meta["pooling"] == "gem" and not has_layer else 1.0
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    total = torch.zeros(CHANNELS)
    for scale in scales:
        size = [int(side * scale) for side in pixels.shape[2:]]
        resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        total += of_scale(meta, state, resized).pow(power)
    vector = (total / len(scales)).pow(1 / power)
    vector = vector / vector.norm()
    if "Lw" in meta:
        learned = meta["Lw"]["retrieval-SfM-120k"]["ms"]
        whitened = torch.from_numpy(learned["P"] @ (vector[:, None].numpy() - learned["m"]))[:, 0]
        vector = (whitened / whitened.norm()).float()
    return vector


def of_scale(meta: dict[str, Any], state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    features = (solar(state, pixels) if meta.get("soa") else resnet(state, pixels))[0]
    if meta["pooling"] == "gem":
        p = state["pool.p"]
        pooled = features.clamp(min=1e-6).pow(p).mean(dim=(1, 2)).pow(1 / p)
    else:
        vectors = [
            l2(features[:, y : y + rows, x : x + columns].amax(dim=(1, 2))) for y, x, rows, columns in grid(features)
        ]
        if meta.get("regional"):
            vectors = [l2(state["pool.whiten.weight"] @ v + state["pool.whiten.bias"]) for v in vectors]
        pooled = torch.stack(vectors).sum(dim=0)
    vector = l2(pooled)
    return l2(state["whiten.weight"] @ vector + state["whiten.bias"]) if meta.get("whitening") else vector


def l2(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + 1e-6)


def grid(features: Tensor) -> list[tuple[int, int, int, int]]:
    """The whole map and the regions of ``rmac``: first row, first column, rows and columns."""
    height, width = features.shape[1:]
    short = min(height, width)
    steps = torch.tensor([2.0, 3, 4, 5, 6, 7])
    b = (max(height, width) - short) / (steps - 1)
    best = int(torch.min(((short**2 - short * b) / short**2 - 0.4).abs(), 0)[1]) + 1
    more_columns, more_rows = best * (height < width), best * (height > width)
    regions = [(0, 0, height, width)]
    for level in (1, 2, 3):
        side = math.floor(2 * short / (level + 1))
        half = math.floor(side / 2 - 1)
        begins = []
        for length, more in ((height, more_rows), (width, more_columns)):
            step = 0 if level + more == 1 else (length - side) / (level + more - 1)
            centres = torch.floor(half + torch.arange(float(level + more)) * step)
            begins.append([int(centre) - half for centre in centres])
        regions += [(y, x, side, side) for y in begins[0] for x in begins[1] if side > 0]
    return regions


def solar(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """SOLAR's ResNet, with attention after conv4_x and conv5_x."""
    x = F.max_pool2d(F.relu(batch_norm(state, "features.conv1.1", conv(state, "features.conv1.0", x, 2))), 3, 2, 1)
    for name, stride in (("conv2_x.2", 1), ("conv3_x", 2), ("conv4_x", 2), ("conv5_x", 2)):
        block = 0
        while f"features.{name}.{block}.conv1.weight" in state:
            x = residual(state, f"features.{name}.{block}", x, stride if block == 0 else 1)
            block += 1
        if name in ("conv4_x", "conv5_x"):
            x = second_order(state, f"features.soa{name[4]}", x)
    return x


def second_order(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    def one_by_one(part: str, y: Tensor) -> Tensor:
        return conv(state, f"{name}.{part}", y, 1) + state[f"{name}.{part}.bias"].view(-1, 1, 1)

    batch, _, height, width = x.shape
    f, g = (F.relu(batch_norm(state, f"{name}.{part}.1", one_by_one(f"{part}.0", x))) for part in "fg")
    h = one_by_one("h", x)
    middle = h.shape[1]
    f, g, h = (y.view(batch, middle, height * width) for y in (f, g, h))
    attention = F.softmax(middle**-0.5 * torch.bmm(f.permute(0, 2, 1), g), dim=-1)
    z = torch.bmm(attention, h.permute(0, 2, 1)).permute(0, 2, 1).reshape(batch, middle, height, width)
    return one_by_one("v", z) + x
