"""Checkpoints of deep-image-retrieval (AP-GeM: Revaud, Almazán, Rezende, de Souza, ICCV 2019).

What their evaluation loads:

    model_options    arch (resnet101_rmac: no regions are pooled in spite of the name), pooling, norm_features,
                     without_fc, out_dim
    state_dict       torchvision's names, perhaps behind module.; adpool.p, fc.weight, fc.bias
    preprocess       mean and std; ImageNet's if it is not there
    pca              whitening learned after training: {data set: scikit-learn's PCA}

GeM → [L2] → the layer fc → L2 → whitening → L2. A photo is described at one scale. Whitening divides each direction by
its variance to the power of 0.25, as their evaluation does.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.models.base import ExtractionConfig
from train.models.gem import GemConfig
from train.models.registry import build_model
from train.weights.published import (
    WHOLE_RESNETS,
    Published,
    channels_of,
    check_normalisation,
    load_renamed,
    reading,
    renamed,
    whitening_weights,
)

EXTRACTION = ExtractionConfig(image_size=1024, scales=(1.0,), features=None)
LAYOUT = "deep-image-retrieval saves a checkpoint"
PLAIN = {"adpool.": "pooling.", "fc.": "layer.", "": "backbone."}
NAMES = {**{f"module.{theirs}": ours for theirs, ours in PLAIN.items()}, **PLAIN}
SUFFIX = "_rmac"  # of an architecture's name
LEARNED_ON = "Landmarks_clean"  # whitening: the set that the authors evaluate with
POWER = 0.25  # of a direction's variance


def is_dir_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like this layout."""
    return isinstance(content, dict) and {"model_options", "state_dict"} <= content.keys()


def read_dir_checkpoint(content: dict[str, Any], path: Path) -> Published:
    """The network of a file's content.

    Raises:
        HowlError: it is not whole, or of a network that howl does not have; the line names the file and says which.
    """
    with reading(path, LAYOUT):
        backbone, layer = _network_of(path, content["model_options"])
        if preprocess := content.get("preprocess"):
            check_normalisation(path, preprocess["mean"], preprocess["std"])
        whitening = _whitening_after_training(content.get("pca"), channels_of(backbone))
        config = GemConfig(backbone, dimensions=len(whitening["whitening.projection.bias"]), layer=layer)
        network = build_model("gem", config)
        state = content["state_dict"]
        weights = renamed(path, state, network, NAMES)
    weights |= whitening
    if "pooling.p" in weights:
        weights["pooling.p"] = weights["pooling.p"].squeeze()
    if "layer.weight" in weights:
        weights["layer.weight"] = weights["layer.weight"][..., None, None]
    load_renamed(network, weights, path, NAMES, state)
    return Published("gem", config, network.state_dict(), EXTRACTION)


def _network_of(path: Path, options: dict[str, Any]) -> tuple[str, Literal["none", "pooled", "normalised"]]:
    """The backbone, and what its layer is given. Raises IncompatibleError for what howl does not have."""
    architecture = options["arch"]
    name = architecture.removesuffix(SUFFIX) if isinstance(architecture, str) else None
    if name not in WHOLE_RESNETS or name == architecture:
        known = ", ".join(f"{each}{SUFFIX}" for each in WHOLE_RESNETS)
        raise IncompatibleError(f"{path}: of a {one_line(architecture)}; howl loads {known}")
    if (pooling := options["pooling"]) != "gem":
        raise IncompatibleError(f"{path}: pools by {one_line(pooling)}; howl loads gem")
    if options.get("without_fc"):
        return WHOLE_RESNETS[name], "none"
    return WHOLE_RESNETS[name], "normalised" if options.get("norm_features") else "pooled"


def _whitening_after_training(learned: Any, channels: int) -> dict[str, Tensor]:
    """Whitening by scikit-learn's PCA; the identity if there is none."""
    if not learned:
        return whitening_weights(torch.eye(channels), torch.zeros(channels))
    pca = learned[LEARNED_ON if LEARNED_ON in learned else next(iter(learned))]
    directions = pca["components_"]
    if pca["whiten"]:
        directions = directions / pca["explained_variance_"][:, None] ** POWER
    return whitening_weights(directions, pca["mean_"])
