"""What the readers of published layouts share: checks, and the names of a ResNet that was cut into its children."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.backbones import build_backbone
from train.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD
from train.models.base import ExtractionConfig, ModelConfig
from train.weights.safe_load import is_state_dict

WHOLE_RESNETS = {  # the published names of whole ResNets, and ours
    "resnet18": "resnet18",
    "resnet50": "resnet50_stride32",
    "resnet101": "resnet101_stride32",
    "resnet152": "resnet152_stride32",
}
RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class Published(NamedTuple):
    """What a file of a system's authors holds, in our terms. There are no visual words in it.

    Attributes:
        system: the name in ``train.models.registry``.
        network: the authors' network as ours.
        weights: its state dict; without whitening if the file has none.
        extraction: the inference that it was made for.
        licence: a line on the licence of the weights, if it restricts their use.
    """

    system: str
    network: ModelConfig
    weights: dict[str, Tensor]
    extraction: ExtractionConfig
    licence: str = ""


def check_normalisation(path: Path, mean: Any, std: Any) -> None:
    """Raises IncompatibleError for another normalisation of pixels in 0…1 than ImageNet's.

    We normalise pixels in 0…255: the numbers differ by 255, the features do not.
    """
    ours = np.array([IMAGENET_MEAN, IMAGENET_STD]) / 255
    theirs = np.array([mean, std], np.float64)
    if theirs.shape != ours.shape or not np.allclose(theirs, ours, atol=1e-3):
        raise IncompatibleError(
            f"{path}: made for images normalised by mean {one_line(mean)} and std {one_line(std)}; howl's ResNets take "
            f"ImageNet's {ours[0].round(3).tolist()} and {ours[1].round(3).tolist()} only: train it with these"
        )


def whole_number(values: dict[str, Any], key: str) -> int:
    """A value of a file's settings. Raises KeyError without it, and ValueError if it is no whole number above 0."""
    value = values[key]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r} instead of a whole number above 0")
    return value


def renamed(path: Path, state: Any, network: nn.Module, our_name: Callable[[str], str]) -> dict[str, Tensor]:
    """The state dict of a file under the names of our network.

    Args:
        path: of the file.
        state: what it holds as its state dict.
        network: which must know all names.
        our_name: of a name in the file; what it does not know it leaves as it is.

    Raises:
        IncompatibleError: it is no state dict, or has weights for which the network has no place.
    """
    if not is_state_dict(state):
        raise IncompatibleError(f"{path}: its state_dict does not map names to tensors; fetch the file again")
    names = {key: our_name(key) for key in state}
    if len(set(names.values())) < len(names):
        raise IncompatibleError(f"{path}: has two weights for one place of the network; fetch the file again")
    known = network.state_dict().keys()
    for key, name in names.items():
        if name not in known:
            raise IncompatibleError(
                f"{path}: has weights {one_line(key)}, for which the network that it describes has no place: another "
                f"one, which howl does not load"
            )
    return {names[key]: value for key, value in state.items()}


def channels_of(backbone: str) -> int:
    """Of the map that a backbone gives."""
    with torch.device("meta"):  # no weights are made
        return build_backbone(backbone).channels


def whitening_weights(projection: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """P·(x − m), with P [D, C] and m [C], as the weights of ``RetrievalModel.whitening``."""
    return {
        "whitening.projection.weight": projection[:, :, None, None].float(),
        "whitening.projection.bias": (-projection @ mean.to(projection.dtype)).float(),
    }


def resnet_name(key: str) -> str:
    """``features.4.0.conv1.weight`` → ``backbone.layer1.0.conv1.weight``; what is not a ResNet's stays as it is."""
    part, _, rest = key.partition(".")
    child, _, parameter = rest.partition(".")
    if part == "features" and child.isdecimal() and int(child) < len(RESNET_CHILDREN):
        return f"backbone.{RESNET_CHILDREN[int(child)]}.{parameter}"
    return key


def refuse(path: Path, layout: str, why: str) -> NoReturn:
    """Raises IncompatibleError: the file is not as ``layout`` says, because of ``why``."""
    raise IncompatibleError(
        f"{path}: not as {layout}: {why}; fetch it again, or export it from the authors' code again"
    )
