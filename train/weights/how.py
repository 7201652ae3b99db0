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
from typing import Any

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.models.base import HOW_SCALES, ExtractionConfig
from train.models.how import HowConfig, HowNetwork
from train.weights.published import (
    RESNET,
    OddValueError,
    Published,
    check_normalisation,
    load_renamed,
    reading,
    renamed,
    whole_number,
)

SKIPPED = {"resnet18": 0, "resnet50": 1}  # the last layers that each of our backbones does without
NAMES = {**RESNET, "dim_reduction.": "whitening.projection.", "whiten.": "whitening.projection."}
LAYOUT = "HOW saves a checkpoint"
OLDER_RUNTIME = {"image_size": 1024, "features_num": 1000, "scales": HOW_SCALES}  # what the older layout leaves out


def is_how_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like one of HOW's layouts."""
    return isinstance(content, dict) and "state_dict" in content and ("net_params" in content or "meta" in content)


def read_how_checkpoint(content: dict[str, Any], path: Path) -> Published:
    """The network of a file's content.

    Raises:
        HowlError: it is not whole, or another network than HOW's two; the line names the file and what is different.
    """
    with reading(path, LAYOUT):
        params = content["net_params"] if "net_params" in content else _older_params(content["meta"])
        check_normalisation(path, *params["runtime"]["mean_std"])
        config = _network_of(path, params)
        extraction = extraction_of(params["runtime"])
        network = HowNetwork(config)
    weights = renamed(path, content["state_dict"], network, NAMES)
    load_renamed(network, weights, path, NAMES, content["state_dict"])
    return Published("how", config, network.state_dict(), extraction)


def _older_params(meta: dict[str, Any]) -> dict[str, Any]:
    """``net_params`` as the older layout says them."""
    return {
        "architecture": meta["architecture"],
        "skip_layer": meta["skip_layer"],
        "dim_reduction": {"dim": meta["dim"]},
        "smoothing": {"kernel_size": meta["feat_pool_k"]},
        "runtime": {"mean_std": [meta["mean"], meta["std"]], **OLDER_RUNTIME},
    }


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
        return HowConfig(
            backbone=architecture, border=True, smoothing="none", dimensions=whole_number(reduction, "dim")
        )
    kernel = smoothing["kernel_size"]
    if kernel not in (3, 5, 7):
        raise IncompatibleError(f"{path}: smooths by kernel_size {one_line(kernel)}; howl loads 3 (HOW's), 5 and 7")
    dimensions = whole_number(reduction, "dim")
    return HowConfig(backbone=architecture, border=True, smoothing="average", kernel=kernel, dimensions=dimensions)


def extraction_of(runtime: dict[str, Any]) -> ExtractionConfig:
    """``net_params.runtime``, also FIRe's. Raises an error of ``ODDITIES`` if it is odd."""
    scales = tuple(float(scale) for scale in runtime["scales"])
    if not scales or not all(0.1 <= scale <= 4 for scale in scales):
        raise OddValueError(f"scales are {scales} instead of numbers from 0.1 to 4")
    return ExtractionConfig(
        image_size=whole_number(runtime, "image_size"), scales=scales, features=whole_number(runtime, "features_num")
    )
