"""HOW's own checkpoints (github.com/gtolias/how): their layout, and the network of ours that it means.

What HOW's training writes, and its evaluation loads:

    net_params    architecture, skip_layer, dim_reduction {dim}, smoothing {kernel_size} and
                  runtime {mean_std, image_size, features_num, scales}
    state_dict    features.N.…      child N of torchvision's ResNet, the last skip_layer of them left out
                  dim_reduction.…   the whitening: a 1×1 convolution, the mean in its bias

The older layout, which HOW's evaluation converts, has no net_params. Its settings lie in ``meta``: architecture,
skip_layer, dim, feat_pool_k, mean and std; its whitening is called ``whiten``.
"""

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from torch import Tensor

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD
from train.models.base import HOW_SCALES, ExtractionConfig
from train.models.how import HowConfig, HowNetwork
from train.weights.safe_load import ODDITIES, is_state_dict, load_state

RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
SKIPPED = {"resnet18": 0, "resnet50": 1}  # the last layers that each of our backbones does without
OLDER_RUNTIME = {"image_size": 1024, "features_num": 1000, "scales": HOW_SCALES}  # what the older layout leaves out


class HowWeights(NamedTuple):
    """What such a file holds, in our terms. There are no visual words in it.

    Attributes:
        network: HOW's network as ours.
        weights: its state dict.
        extraction: the inference that it was made for.
    """

    network: HowConfig
    weights: dict[str, Tensor]
    extraction: ExtractionConfig


def is_how_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like one of HOW's layouts."""
    return isinstance(content, dict) and "state_dict" in content and ("net_params" in content or "meta" in content)


def read_how_checkpoint(content: dict[str, Any], path: Path) -> HowWeights:
    """The network of a file's content.

    Raises:
        HowlError: it is not whole, or another network than HOW's two; the line names the file and what is different.
    """
    try:
        params = content["net_params"] if "net_params" in content else _older_params(content["meta"])
        _check_normalisation(path, *params["runtime"]["mean_std"])
        config = _network_of(path, params)
        extraction = _extraction_of(params["runtime"])
        network = HowNetwork(config)
    except KeyError as error:
        _refuse(path, f"it lacks {error}")
    except ODDITIES as error:
        _refuse(path, one_line(error))
    load_state(network, _renamed(path, content["state_dict"], network), path)
    return HowWeights(config, network.state_dict(), extraction)


def _older_params(meta: dict[str, Any]) -> dict[str, Any]:
    """``net_params`` as the older layout says them."""
    return {
        "architecture": meta["architecture"],
        "skip_layer": meta["skip_layer"],
        "dim_reduction": {"dim": meta["dim"]},
        "smoothing": {"kernel_size": meta["feat_pool_k"]},
        "runtime": {"mean_std": [meta["mean"], meta["std"]], **OLDER_RUNTIME},
    }


def _check_normalisation(path: Path, mean: Any, std: Any) -> None:
    """HOW normalises pixels in 0…1, we in 0…255: the numbers differ by 255, the features do not."""
    ours = np.array([IMAGENET_MEAN, IMAGENET_STD]) / 255
    theirs = np.array([mean, std], np.float64)
    if theirs.shape != ours.shape or not np.allclose(theirs, ours, atol=1e-3):
        raise IncompatibleError(
            f"{path}: made for images normalised by mean {one_line(mean)} and std {one_line(std)}; howl's ResNets take "
            f"ImageNet's {ours[0].round(3).tolist()} and {ours[1].round(3).tolist()} only: train it with these"
        )


def _network_of(path: Path, params: dict[str, Any]) -> HowConfig:
    architecture, skipped = params["architecture"], params["skip_layer"]
    if architecture not in SKIPPED or skipped != SKIPPED[architecture]:
        known = " or ".join(f"{name} with skip_layer {layers}" for name, layers in SKIPPED.items())
        raise IncompatibleError(
            f"{path}: {one_line(architecture)} with skip_layer {one_line(skipped)}, howl loads {known}, as HOW "
            f"published them"
        )
    reduction, smoothing = params["dim_reduction"], params["smoothing"]
    if not reduction:
        raise IncompatibleError(f"{path}: a network without dim_reduction; train it with one, as HOW's published are")
    if not smoothing:
        return HowConfig(backbone=architecture, border=True, smoothing="none", dimensions=_whole(reduction, "dim"))
    kernel = smoothing["kernel_size"]
    if kernel not in (3, 5, 7):
        raise IncompatibleError(f"{path}: smooths by kernel_size {one_line(kernel)}; howl loads 3 (HOW's), 5 and 7")
    dimensions = _whole(reduction, "dim")
    return HowConfig(backbone=architecture, border=True, smoothing="average", kernel=kernel, dimensions=dimensions)


def _extraction_of(runtime: dict[str, Any]) -> ExtractionConfig:
    scales = tuple(float(scale) for scale in runtime["scales"])
    if not scales or not all(0.1 <= scale <= 4 for scale in scales):
        raise ValueError(f"scales are {scales} instead of numbers from 0.1 to 4")
    return ExtractionConfig(
        image_size=_whole(runtime, "image_size"), scales=scales, features=_whole(runtime, "features_num")
    )


def _whole(values: dict[str, Any], key: str) -> int:
    value = values[key]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r} instead of a whole number above 0")
    return value


def _renamed(path: Path, state: Any, network: HowNetwork) -> dict[str, Tensor]:
    """The state dict under the names of our network, which must know them all."""
    if not is_state_dict(state):
        _refuse(path, "its state_dict does not map names to tensors")
    names = {key: _our_name(key) for key in state}
    known = network.state_dict().keys()
    for key, name in names.items():
        if name not in known:
            raise IncompatibleError(
                f"{path}: has weights {one_line(key)}, for which HOW's {network.config.backbone} has no place"
            )
    return {names[key]: value for key, value in state.items()}


def _our_name(key: str) -> str:
    """``features.4.0.conv1.weight`` → ``backbone.layer1.0.conv1.weight``; what is not HOW's stays as it is."""
    part, _, rest = key.partition(".")
    if part in ("dim_reduction", "whiten"):
        return f"whitening.projection.{rest}"
    child, _, parameter = rest.partition(".")
    if part == "features" and child.isdecimal() and int(child) < len(RESNET_CHILDREN):
        return f"backbone.{RESNET_CHILDREN[int(child)]}.{parameter}"
    return key


def _refuse(path: Path, why: str) -> NoReturn:
    raise IncompatibleError(
        f"{path}: not as HOW saves a checkpoint: {why}; fetch it again, or export it from HOW again"
    )
