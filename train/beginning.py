"""What a network begins with: its trunk's weights, or all that it has in common with an earlier network."""

from pathlib import Path

from train.checkpoint import Checkpoint, is_checkpoint
from train.network import Network
from train.tensor_file import load_tensors
from train.trunk import initialise_trunk
from train.trunk.weights import fill

NEEDED = ("trunk", "whitening")  # whatever the refinements of the two networks


def begin_with(network: Network, init: str) -> bool:
    """Gives a new network its first weights.

    Args:
        network: as built.
        init: ``imagenet``, ``random``, the path of a trunk's state dict, or that of a checkpoint, howl's or HOW's own.

    Returns:
        whether whitening came with them, which stays as the earlier network learned it.

    Raises:
        HowlError: as ``initialise_trunk`` and ``Checkpoint.load``, or the networks do not fit each other.
    """
    content = None if init in ("imagenet", "random") else load_tensors(Path(init))
    if not is_checkpoint(content):
        initialise_trunk(network.trunk, network.config.trunk, init)
        return False
    take_over(network, Checkpoint.of(content, Path(init)), Path(init))
    return True


def take_over(network: Network, earlier: Checkpoint, path: Path) -> None:
    """Trunk and whitening of an earlier network, and its refinements where this one has the same."""
    for name, module in network.named_children():
        weights = {
            key.removeprefix(f"{name}."): value for key, value in earlier.weights.items() if key.startswith(f"{name}.")
        }
        if name in NEEDED or module.state_dict().keys() <= weights.keys():
            fill(module, weights, path)
