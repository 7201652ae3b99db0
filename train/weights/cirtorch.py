"""Checkpoints of cnnimageretrieval-pytorch (cirtorch: GeM and R-MAC) and of SOLAR, which extends it.

What their training writes, and their evaluation loads:

    meta          architecture, pooling, outputdim, mean and std; whitening, regional and local_whitening (false if
                  they are not there); soa and soa_layers (SOLAR); Lw, learned after training:
                  {data set: {ss or ms: {m, P}}}
    state_dict    features.N.…      child N of torchvision's ResNet, without average pooling and classifier;
                  SOLAR: features.conv1.{0, 1}, conv2_x.2, conv3_x, conv4_x, conv5_x and soa4, soa5
                  pool.p            the exponent of GeM
                  whiten.…          the whitening layer, if meta.whitening says that there is one
                  pool.whiten.…     that of the regions, if meta.regional says so

A network with a whitening layer is evaluated at the scales 1, √2 and 1/√2, with the mean of their descriptors. One
without is evaluated at 1, 1/√2 and 1/2; GeM's scales are then pooled by its p, and whitened by Lw, of the one that was
learned at these scales (ms).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.models.base import ExtractionConfig, RetrievalModel
from train.models.gem import GemConfig
from train.models.global_model import GlobalConfig
from train.models.registry import build_model
from train.models.rmac import RmacConfig
from train.weights.published import (
    RESNET,
    WHOLE_RESNETS,
    Published,
    channels_of,
    check_normalisation,
    load_renamed,
    reading,
    refuse,
    renamed,
    whitening_weights,
)

IMAGE_SIZE = 1024
LAYER_SCALES = (1.0, 1.4142, 0.7071)
SCALES = (1.0, 0.7071, 0.5)
LEARNED_ON = ("retrieval-SfM-120k", "retrieval-SfM-30k")  # Lw: the larger set first
EXPONENT, WHITENING = "pooling.p", "whitening.projection.weight"
NAMES = {
    **RESNET,
    "features.conv1.0.": "backbone.conv1.",
    "features.conv1.1.": "backbone.bn1.",
    "features.conv2_x.2.": "backbone.layer1.",
    "features.conv3_x.": "backbone.layer2.",
    "features.conv4_x.": "backbone.layer3.",
    "features.conv5_x.": "backbone.layer4.",
    "features.soa4.": "attention.layer3.",
    "features.soa5.": "attention.layer4.",
    "pool.p": EXPONENT,
    "pool.whiten.": "whitening.projection.",
    "whiten.": "whitening.projection.",
}
LAYOUT = "cirtorch or SOLAR save a checkpoint"


def is_cirtorch_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like this layout."""
    if not isinstance(content, dict) or "state_dict" not in content or "net_params" in content:
        return False
    return isinstance(content.get("meta"), dict) and "pooling" in content["meta"]


def read_cirtorch_checkpoint(content: dict[str, Any], path: Path) -> Published:
    """The network of a file's content.

    Raises:
        HowlError: it is not whole, or of a network that howl does not have; the line names the file and says which.
    """
    with reading(path, LAYOUT):
        meta, state = content["meta"], content["state_dict"]
        system, config = _network_of(path, meta, state)
        check_normalisation(path, meta["mean"], meta["std"])
        network = build_model(system, config)
        weights = _weights_of(path, state, network)
        if config.pyramid == "pooled":
            if WHITENING in weights:
                refuse(path, LAYOUT, "it has a whitening layer, of which its meta says nothing")
            weights |= _whitening_after_training(meta.get("Lw"), network.backbone.channels)
    load_renamed(network, weights, path, NAMES, state)
    scales = SCALES if config.pyramid == "pooled" else LAYER_SCALES
    return Published(system, config, network.state_dict(), ExtractionConfig(IMAGE_SIZE, scales, features=None))


def _network_of(path: Path, meta: dict[str, Any], state: Any) -> tuple[str, GlobalConfig]:
    """The system and its configuration. Raises IncompatibleError for what howl does not have."""
    architecture, pooling, regional = meta["architecture"], meta["pooling"], bool(meta.get("regional"))
    if architecture not in WHOLE_RESNETS:
        raise IncompatibleError(f"{path}: of a {one_line(architecture)}; howl loads {', '.join(WHOLE_RESNETS)}")
    if meta.get("local_whitening"):
        raise IncompatibleError(f"{path}: whitens every position (local_whitening), which howl does not; load another")
    if regional and meta.get("whitening"):
        raise IncompatibleError(f"{path}: whitens regions and their sum; howl whitens one of them; load another")
    has_layer = regional or bool(meta.get("whitening"))
    backbone = WHOLE_RESNETS[architecture]
    settings: dict[str, Any] = {"backbone": backbone, "pyramid": "whitened" if has_layer else "pooled"}
    layer = "pool.whiten.weight" if regional else "whiten.weight"
    settings["dimensions"] = given = len(state[layer]) if has_layer else channels_of(backbone)
    if meta.get("outputdim", given) != given:
        refuse(path, LAYOUT, f"outputdim is {one_line(meta['outputdim'])}, and its weights give {given} dimensions")
    match pooling, regional, meta.get("soa_layers") if meta.get("soa") else None:
        case "gem", False, None:
            return "gem", GemConfig(**settings)
        case "gem", False, "45":
            return "solar", GemConfig(**settings)
        case "rmac", False, None:
            return "rmac", RmacConfig(**settings, whitened="sum")
        case "mac", True, None:
            return "rmac", RmacConfig(**settings, whitened="regions")
        case _, _, attention:
            found = f"regional {one_line(pooling)}" if regional else one_line(pooling)
            found += "" if attention is None else f", with attention in {one_line(attention)}"
            known = "gem, rmac and regional mac, and gem with attention in 45 (SOLAR)"
            raise IncompatibleError(f"{path}: pools by {found}; howl loads {known}")


def _weights_of(path: Path, state: Any, network: RetrievalModel) -> dict[str, Tensor]:
    """The state dict under our names, a linear layer as a 1×1 convolution."""
    weights = renamed(path, state, network, NAMES)
    if EXPONENT in weights:
        weights[EXPONENT] = weights[EXPONENT].squeeze()
    if WHITENING in weights:
        weights[WHITENING] = weights[WHITENING][:, :, None, None]
    return weights


def _whitening_after_training(learned: Any, channels: int) -> dict[str, Tensor]:
    """Whitening P·(x − m) that was learned on a trained network (Lw); the identity if there is none."""
    if not learned:
        return whitening_weights(torch.eye(channels), torch.zeros(channels))
    data_set = next((name for name in LEARNED_ON if name in learned), None) or next(iter(learned))
    mean, projection = learned[data_set]["ms"]["m"], learned[data_set]["ms"]["P"]
    return whitening_weights(projection, mean.flatten())
