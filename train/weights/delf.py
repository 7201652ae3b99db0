"""Checkpoints of DeLF-pytorch (github.com/nashory/DeLF-pytorch), and what is not one.

What the second stage of its training writes, a state dict of each part:

    base      N.…              child N of torchvision's ResNet-50, without its last stage
    attn      conv1, conv2     the attention, 1024 → 512 → 1
    pool      logits           the weighted sum, which has no weights, and the classifier: of training alone

The first stage has no attention yet. Pixels are in 0…1, not normalised. PCA is learned after training and kept in
another file: the network comes without whitening, and has to learn it from photos.
"""

from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from runtime.errors import IncompatibleError
from runtime.io.unpickle import one_line
from train.models.base import HOW_SCALES, ExtractionConfig
from train.models.delf import DelfNetwork
from train.models.local_model import LocalConfig
from train.weights.published import RESNET, Published, load_renamed, refuse, renamed

USED, OF_TRAINING = ("base", "attn"), ("pool", "logits", "layer4")
NAMES = {**{theirs.replace("features", "base"): ours for theirs, ours in RESNET.items()}, "attn.": "attention."}
EXTRACTION = ExtractionConfig(image_size=1024, scales=HOW_SCALES, features=1000)  # scales of the paper; 1/4 to 2
LAYOUT = "DeLF-pytorch saves a checkpoint"


def is_delf_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like this layout."""
    return isinstance(content, dict) and "base" in content and not {"attn", *OF_TRAINING}.isdisjoint(content)


def read_delf_checkpoint(content: dict[str, Any], path: Path) -> Published:
    """The network of a file's content, without whitening.

    Raises:
        HowlError: it is not whole, or of another network; the line names the file and what is missing or unknown.
    """
    if "attn" not in content:
        raise IncompatibleError(
            f"{path}: of DeLF-pytorch's first stage, without attention (attn): load a file of its second (keypoint)"
        )
    if unknown := [key for key in content if key not in (*USED, *OF_TRAINING)]:
        refuse(path, LAYOUT, f"it has {', '.join(map(one_line, unknown))}, which howl does not know")
    for part in USED:
        if not isinstance(content[part], dict):
            refuse(path, LAYOUT, f"its {part} is no state dict")
    network = DelfNetwork(LocalConfig(backbone="resnet50_unit", border=True))
    state = {f"{part}.{key}": value for part in USED for key, value in content[part].items()}
    learned = nn.ModuleDict({"backbone": network.backbone, "attention": network.attention})
    load_renamed(learned, renamed(path, state, learned, NAMES), path, NAMES, state)
    return Published("delf", network.config, learned.state_dict(), EXTRACTION)


def is_delg_pytorch_checkpoint(content: Any) -> bool:
    """Whether the content of a file looks like one of DELG-pytorch or of CVNet, which are trained by pycls."""
    return isinstance(content, dict) and isinstance(content.get("model_state"), dict)


def refuse_delg_pytorch_checkpoint(content: dict[str, Any], path: Path) -> NoReturn:
    """Raises IncompatibleError: neither is the DELG of its paper, nor another of our networks."""
    raise IncompatibleError(
        f"{path}: of DELG-pytorch or CVNet (model_state), networks that are not the DELG of its paper, and that howl "
        f"does not have: train one with --system delg"
    )
