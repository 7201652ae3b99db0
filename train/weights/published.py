"""What the readers of published layouts share: checks, and the names of a ResNet that was cut into its children."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import IncompatibleError, UsageError
from runtime.io.unpickle import one_line
from train.backbones import build_backbone
from train.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD
from train.models.base import ExtractionConfig, ModelConfig
from train.weights.safe_load import ODDITIES, is_state_dict, load_state

WHOLE_RESNETS = {  # the published names of whole ResNets, and ours
    "resnet18": "resnet18",
    "resnet50": "resnet50_stride32",
    "resnet101": "resnet101_stride32",
    "resnet152": "resnet152_stride32",
}
RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
RESNET = {f"features.{number}.": f"backbone.{child}." for number, child in enumerate(RESNET_CHILDREN)}  # prefixes


class OddValueError(ValueError):
    """A value in a file that no network of its layout has; the line says which."""


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
    """A value of a file's settings. Raises KeyError without it, and OddValueError if it is no whole number above 0."""
    value = values[key]
    if not isinstance(value, int) or value < 1:
        raise OddValueError(f"{key} is {value!r} instead of a whole number above 0")
    return value


@contextmanager
def reading(path: Path, layout: str) -> Iterator[None]:
    """Refuses a file, in one line, whose content is not as its layout says.

    Raises:
        IncompatibleError: in the block something is missing, or has a value of another type, size or range.
    """
    try:
        yield
    except KeyError as error:
        refuse(path, layout, f"it lacks {error}")
    except (OddValueError, UsageError) as error:
        refuse(path, layout, one_line(error))
    except ODDITIES:  # whose words are Python's, about our code
        refuse(path, layout, "values in it are of other types or sizes than theirs")


def renamed(path: Path, state: Any, network: nn.Module, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict of a file under the names of our network.

    Args:
        path: of the file.
        state: what it holds as its state dict.
        network: which must know all names.
        prefixes: of names in the file, and what stands in their place in ours; a name that has none stays as it is.

    Raises:
        IncompatibleError: it is no state dict, lacks weights, or has some for which the network has no place.
    """
    if not is_state_dict(state):
        raise IncompatibleError(f"{path}: its state_dict does not map names to tensors; fetch the file again")
    names = {key: _replaced(key, prefixes) for key in state}
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


def load_renamed(
    network: nn.Module, weights: dict[str, Tensor], path: Path, prefixes: Mapping[str, str], state: Iterable[str]
) -> None:
    """Gives a network what ``renamed`` gave; what is wrong with it is said in the file's own names.

    Args:
        network: whose names the weights have.
        weights: which may have been changed since.
        path: of the file.
        prefixes: as ``renamed`` was given them.
        state: the names in the file, which tell in which of several ways it calls what it lacks.

    Raises:
        HowlError: as ``load_state``.
    """
    load_state(network, weights, path, lambda name: _their_name(name, prefixes, list(state)))


def _replaced(name: str, prefixes: Mapping[str, str]) -> str:
    for theirs, ours in prefixes.items():
        if name.startswith(theirs):
            return f"{ours}{name.removeprefix(theirs)}"
    return name


def _their_name(name: str, prefixes: Mapping[str, str], state: Sequence[str]) -> str:
    """The name in the file, by the prefix that has most in common with it and that the file uses."""
    matching = sorted(
        (theirs for theirs, ours in prefixes.items() if name.startswith(ours)),
        key=lambda theirs: -len(prefixes[theirs]),
    )
    used = [theirs for theirs in matching if any(key.startswith(theirs) for key in state)]
    for theirs in used or matching:
        return f"{theirs}{name.removeprefix(prefixes[theirs])}"
    return name


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


def refuse(path: Path, layout: str, why: str) -> NoReturn:
    """Raises IncompatibleError: the file is not as ``layout`` says, because of ``why``."""
    raise IncompatibleError(
        f"{path}: not as {layout}: {why}; fetch it again, or export it from the authors' code again"
    )
