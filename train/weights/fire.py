"""FIRe's own checkpoints (github.com/naver/fire): their layout, and the network of ours that it means.

What FIRe's training writes, and its evaluation loads:

    net_params    architecture, skip_layer, dim_reduction {dim}, lit {T, N, dim} and
                  runtime {mean_std, image_size, features_num, scales}
    state_dict    features.N.…      child N of torchvision's ResNet-50, the last one left out
                  lit.…             templates_init [1, N, C], project_{q,k,v}, norm_{inputs,templates,mlp} and mlp
                  dim_reduction.…   the whitening: a 1×1 convolution, the mean in its bias

``fire_imagenet.pth``, from which their training starts, has a classifier ``fc`` in place of the whitening.
"""

from pathlib import Path
from typing import Any

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.models.fire import FireConfig, FireNetwork
from train.weights.how import extraction_of
from train.weights.published import (
    RESNET,
    Published,
    check_normalisation,
    load_renamed,
    reading,
    renamed,
    whole_number,
)

LAYOUT = "FIRe saves a checkpoint"
LICENCE = "FIRe's weights are under CC BY-NC-SA 4.0: not for commercial use, nor is what is made from them"
TEMPLATES = "lit.templates_init"
NAMES = {
    TEMPLATES: "lit.templates",
    "lit.project_q.": "lit.query.",
    "lit.project_k.": "lit.key.",
    "lit.project_v.": "lit.value.",
    "dim_reduction.": "whitening.projection.",
    **RESNET,
}


def is_fire_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like this layout."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        return False
    params = content.get("net_params")
    return TEMPLATES in content["state_dict"] or (isinstance(params, dict) and "lit" in params)


def read_fire_checkpoint(content: dict[str, Any], path: Path) -> Published:
    """The network of a file's content.

    Raises:
        HowlError: it is not whole, or of a network that howl does not have; the line names the file and says which.
    """
    state = content["state_dict"]
    if any(str(key).startswith("fc") for key in state) and "dim_reduction.weight" not in state:
        raise IncompatibleError(
            f"{path}: a classifier, from which FIRe's training starts, without dim_reduction; load fire.pth, or train "
            f"with --system fire"
        )
    with reading(path, LAYOUT):
        params = content["net_params"]
        check_normalisation(path, *params["runtime"]["mean_std"])
        if (params["architecture"], params["skip_layer"]) != ("resnet50", 1):
            found = f"{one_line(params['architecture'])} with skip_layer {one_line(params['skip_layer'])}"
            raise IncompatibleError(f"{path}: {found}; howl loads resnet50 with skip_layer 1, as FIRe published it")
        config = FireConfig(
            backbone="resnet50",
            dimensions=whole_number(params["dim_reduction"], "dim"),
            border=True,
            templates=whole_number(params["lit"], "N"),
            iterations=whole_number(params["lit"], "T"),
        )
        extraction = extraction_of(params["runtime"])
        network = FireNetwork(config)
        weights = renamed(path, state, network, NAMES)
        if "lit.templates" in weights:
            weights["lit.templates"] = weights["lit.templates"].squeeze(0)
    load_renamed(network, weights, path, NAMES, state)
    return Published("fire", config, network.state_dict(), extraction, LICENCE)
