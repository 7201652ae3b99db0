"""What a network begins with: its backbone's weights, or all that it has in common with an earlier network."""

from pathlib import Path

from runtime.errors import HowlError
from train.backbones import init_backbone
from train.checkpoint import Checkpoint, is_checkpoint
from train.models.how import Network
from train.weights.imagenet import fill, state_dict_of
from train.weights.safe_load import load_tensors

SYNTHETIC_BY = {  # what says whether weights of a module of one network fit the other's
    "backbone": ("backbone",),
    "graph": ("graph", "graph_blocks", "graph_width"),
    "smoothing": ("smoothing", "kernel", "bandwidth"),
    "whitening": ("dimensions",),
}
NEEDED = ("backbone", "whitening")  # whatever the refinements of the two networks


def init_weights(network: Network, init: str) -> set[str]:
    """Gives a new network its first weights.

    Args:
        network: as built.
        init: ``imagenet``, ``random``, the path of a backbone's state dict, or that of a checkpoint,
            howl's or HOW's own.

    Returns:
        the names of the network's modules that got theirs: the backbone; with a checkpoint whitening too, which stays
        as the earlier network learned it, and refinements that both networks have.

    Raises:
        HowlError: as ``init_backbone`` and ``Checkpoint.load``, or the networks do not fit each other.
    """
    if init in ("imagenet", "random"):
        init_backbone(network.backbone, network.config.backbone, init)
        return {"backbone"}
    path = Path(init)
    if not path.exists():
        raise HowlError(f"--init {init}: no such file; nor is it imagenet or random")
    content = load_tensors(path)
    if is_checkpoint(content):
        return load_matching(network, Checkpoint.of(content, path), path)
    fill(network.backbone, state_dict_of(content, path), path)
    return {"backbone"}


def load_matching(network: Network, earlier: Checkpoint, path: Path) -> set[str]:
    """Backbone and whitening of an earlier network, and its refinements where this one has the same."""
    taken = set()
    for name, module in network.named_children():
        different = [
            field for field in SYNTHETIC_BY[name] if getattr(earlier.network, field) != getattr(network.config, field)
        ]
        if different and name in NEEDED:
            theirs = getattr(earlier.network, different[0])
            raise HowlError(f"--init {path}: a network of --{different[0]} {theirs}: say so, or begin with another")
        if not different and module.state_dict():
            weights = {
                key.removeprefix(f"{name}."): value
                for key, value in earlier.weights.items()
                if key.startswith(f"{name}.")
            }
            fill(module, weights, path)
            taken.add(name)
    return taken
