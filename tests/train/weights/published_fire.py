"""Files in the layout of FIRe's own checkpoints, and FIRe's inference over them, written out plainly.

Nothing of ours takes part in ``fire_inference``: it reads the published names and follows the paper, scale by scale.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.models.fire import FireConfig, FireNetwork
from train.models.whitening import Moments

from .published_how import DEVIATION, DIMENSIONS, IMAGE_SIZE, MEAN, Local, resnet, some_pixels

SCALES, FEATURES, TEMPLATES, ITERATIONS = [1.5, 1.0, 0.5], 40, 24, 3  # the scales keep even sides whole


class Published(nn.Module):
    """The modules that give a state dict its names."""

    def __init__(self, network: FireNetwork) -> None:
        super().__init__()
        backbone = network.backbone
        stages = [backbone.get_submodule(name) for name in backbone.stages]
        self.features = nn.Sequential(backbone.conv1, backbone.bn1, nn.ReLU(), backbone.maxpool, *stages)
        self.lit = nn.Module()
        self.lit.templates_init = nn.Parameter(network.lit.templates.detach()[None])
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
            self.lit.add_module(f"project_{theirs}", network.lit.get_submodule(ours))
        for name in ("norm_inputs", "norm_templates", "norm_mlp", "mlp"):
            self.lit.add_module(name, network.lit.get_submodule(name))
        self.dim_reduction = network.whitening.projection


@torch.no_grad()
def random_fire(dimensions: int = DIMENSIONS) -> FireNetwork:
    """FIRe's network with random weights and the whitening that its super-features need: every part has an effect."""
    torch.manual_seed(0)
    network = FireNetwork(FireConfig("resnet50", dimensions, True, TEMPLATES, ITERATIONS)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.uniform_(0.5, 1)
            module.bias.normal_(0, 0.3)
    for parameter in (*network.lit.mlp.parameters(), network.lit.value.weight, network.lit.key.weight):
        parameter.add_(0.02 * torch.randn_like(parameter))
    network.lit.templates.normal_()
    moments = Moments(network.backbone.channels)
    for pixels in some_pixels():
        moments.add(network.super_features(pixels).features[0].numpy())
    network.whitening.learn(moments)
    return network


def fire_content(network: FireNetwork) -> dict[str, Any]:
    """What a file of FIRe's holds."""
    config = network.config
    return {
        "epoch": 200,
        "meta": {"architecture": "resnet50", "backbone_dim": 1024, "outputdim": config.dimensions},
        "state_dict": Published(network).state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 3e-5, "params": [0, 1]}]},
        "best_score": np.float64(90.3),
        "scores": defaultdict(list, {"val": [(5, np.float64(90.3))]}),
        "net_params": {
            "architecture": "resnet50",
            "pretrained": None,
            "skip_layer": 1,
            "dim_reduction": {"dim": config.dimensions},
            "lit": {"T": config.iterations, "N": config.templates, "dim": network.backbone.channels},
            "runtime": {
                "mean_std": [MEAN, DEVIATION],
                "image_size": IMAGE_SIZE,
                "features_num": FEATURES,
                "scales": SCALES,
                "training_scales": [1],
            },
        },
        "_version": "fire/2021",
    }


def write_fire(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path)
    return path


@torch.no_grad()
def fire_inference(
    state: dict[str, Tensor], image: Image, scales: Sequence[float], features: int, iterations: int = ITERATIONS
) -> Local:
    """FIRe's super-features of an RGB image; ``cells`` is (0, template, scale), as the authors have it."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    descriptors, strengths, cells = [], [], []
    for scale in scales:
        resized = F.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False)
        for template, t in enumerate(super_features(state, resnet(state, resized), iterations)):
            reduction = state["dim_reduction.weight"][:, :, 0, 0]
            descriptors.append(reduction @ t + state["dim_reduction.bias"])
            strengths.append((t.pow(2).sum() + 1e-10).sqrt())
            cells.append(torch.tensor([0, template, scale]))
    weights = torch.stack(strengths) / max(strengths)
    kept = weights.sort(descending=True)[1][:features]
    return Local(torch.stack(descriptors)[kept], weights[kept], torch.stack(cells)[kept])


def super_features(state: dict[str, Tensor], maps: Tensor, iterations: int) -> Tensor:
    """LIT over a map [1, C, h, w]: [N, C]."""
    x = norm(state, "lit.norm_inputs", maps[0].flatten(1).T)
    k, v = x @ state["lit.project_k.weight"].T, x @ state["lit.project_v.weight"].T
    t = state["lit.templates_init"][0]
    for _ in range(iterations):
        q = norm(state, "lit.norm_templates", t) @ state["lit.project_q.weight"].T / t.shape[1] ** 0.5
        a = torch.softmax(k @ q.T, dim=1) + 1e-8
        t = t + (a / a.sum(dim=0)).T @ v
        h = norm(state, "lit.norm_mlp", t) @ state["lit.mlp.0.weight"].T + state["lit.mlp.0.bias"]
        t = t + h.clamp(min=0) @ state["lit.mlp.2.weight"].T + state["lit.mlp.2.bias"]
    return t


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    variance = centred.pow(2).mean(dim=1, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]
