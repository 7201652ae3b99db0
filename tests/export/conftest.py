"""A checkpoint that exports in seconds: two layers under the real smoothing, graph, whitening and selection."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.first_stage import ASMK
from train.backbones import BUILDERS, Backbone
from train.backbones.resnet import BasicBlock, ResNet
from train.checkpoint import Checkpoint
from train.models.base import ExtractionConfig, RetrievalModel
from train.models.registry import SYSTEMS, build_model


class SmallBackbone(Backbone):
    """24 channels."""

    channels = 24

    def __init__(self, stride: int = 4) -> None:
        super().__init__((127.0,) * 3, (64.0,) * 3)
        self.stride = stride
        self.conv1 = nn.Conv2d(3, 16, 5, stride=stride // 2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(24)

    def features(self, image: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(image))))))


SMALL = dict(
    backbone="small",
    smoothing="learned",
    refine="graph",
    graph_nodes=64,
    graph_neighbours=4,
    graph_width=16,
    dimensions=16,
)


SMALL_GLOBAL = dict(backbone="small", dimensions=12)
SMALL_OF = {  # of the systems that are not like GeM's
    "how": SMALL,
    "delf": dict(backbone="small", dimensions=16),
    "delg": dict(backbone="small_stages", dimensions=12, local_dimensions=20),
    "fire": dict(backbone="small", dimensions=16, templates=20, iterations=3),
}


def with_random_weights(network: RetrievalModel, spread: float = 0.3) -> RetrievalModel:
    """Weights away from their initial values, so that no module is the identity and statistics are not 0 and 1."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="session")
def network() -> Iterator[Callable[..., RetrievalModel]]:
    """Builds a small network of a system, HOW's by default, with random weights; keywords change its configuration."""

    def build(seed: int = 0, system: str = "how", **changes: Any) -> RetrievalModel:
        torch.manual_seed(seed)
        small = SMALL_OF.get(system, SMALL_GLOBAL)
        spread = 0.05 if system == "fire" else 0.3  # wild iterations would make much of a rounding error
        return with_random_weights(build_model(system, SYSTEMS[system].Config(**small | changes)), spread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "small", SmallBackbone)
        patch.setitem(BUILDERS, "small_stages", lambda: ResNet(BasicBlock, depths=(1, 1, 1, 1)))
        patch.setitem(BUILDERS, "small_stride32", partial(SmallBackbone, 32))
        yield build


@pytest.fixture
def checkpoint(network: Callable[..., RetrievalModel], tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint of a small network and gives its path."""

    def write(**changes: Any) -> Path:
        made = network(**changes)
        path, by_words = tmp_path / "ckpt.pt", made.method == ASMK
        centroids = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
        Checkpoint(
            system=made.system,
            network=made.config,
            weights=made.state_dict(),
            extraction=ExtractionConfig(128, (1.414,), features=200 if made.has_local_features else None),
            asmk=AsmkParameters() if by_words else None,
            codebook=Codebook(centroids) if by_words else None,
            training={"config": {"data": "scenes"}},
        ).save(path)
        return path

    return write


def content(module: nn.Module) -> str:
    """A checksum of all that its trace depends on: the settings of its modules and their weights."""
    settings = [{key: value for key, value in vars(each).items() if key[0] != "_"} for each in module.modules()]
    sha = hashlib.sha256(repr((module, settings)).encode())
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        sha.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        sha.update(weight.detach().numpy().tobytes())
    return sha.hexdigest()


@pytest.fixture(scope="session", autouse=True)
def trace_once() -> Iterator[None]:
    """Traces every network once: that is most of an export's time, and always gives the same."""
    export, programs = torch.onnx.export, {}

    def traced(extractor: nn.Module, *arguments: Any, **settings: Any) -> Any:
        key = content(extractor)
        if key not in programs:
            programs[key] = export(extractor, *arguments, **settings)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", traced)
        yield
