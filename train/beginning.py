"""What a network begins with: its trunk's weights, or all that it has in common with an earlier network."""

from pathlib import Path

from runtime.errors import HowlError
from train.checkpoint import Checkpoint, is_checkpoint
from train.network import Network
from train.tensor_file import load_tensors
from train.trunk import initialise_trunk
from train.trunk.weights import fill, state_dict_of

MADE_BY = {  # what says whether weights of a module of one network fit the other's
    "trunk": ("trunk",),
    "graph": ("graph", "graph_blocks", "graph_width"),
    "smoothing": ("smoothing", "kernel", "bandwidth"),
    "whitening": ("dimensions",),
}
NEEDED = ("trunk", "whitening")  # whatever the refinements of the two networks


def begin_with(network: Network, init: str) -> set[str]:
    """Gives a new network its first weights.

    Args:
        network: as built.
        init: ``imagenet``, ``random``, the path of a trunk's state dict, or that of a checkpoint, howl's or HOW's own.

    Returns:
        the names of the network's modules that got theirs: the trunk; with a checkpoint whitening too, which stays as
        the earlier network learned it, and refinements that both networks have.

    Raises:
        HowlError: as ``initialise_trunk`` and ``Checkpoint.load``, or the networks do not fit each other.
    """
    if init in ("imagenet", "random"):
        initialise_trunk(network.trunk, network.config.trunk, init)
        return {"trunk"}
    path = Path(init)
    if not path.exists():
        raise HowlError(f"--init {init}: no such file; nor is it imagenet or random")
    content = load_tensors(path)
    if is_checkpoint(content):
        return take_over(network, Checkpoint.of(content, path), path)
    fill(network.trunk, state_dict_of(content, path), path)
    return {"trunk"}


def take_over(network: Network, earlier: Checkpoint, path: Path) -> set[str]:
    """Trunk and whitening of an earlier network, and its refinements where this one has the same."""
    taken = set()
    for name, module in network.named_children():
        different = [
            field for field in MADE_BY[name] if getattr(earlier.network, field) != getattr(network.config, field)
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
