"""What a network starts from: weights of its backbone, or all that it has in common with an earlier network."""

from collections.abc import Callable
from pathlib import Path

from runtime.errors import IncompatibleError, MissingError
from train.backbones import Backbone
from train.checkpoint import Checkpoint, is_checkpoint
from train.models.base import RetrievalModel
from train.models.registry import system_named
from train.weights.imagenet import imagenet_file
from train.weights.safe_load import load_state, load_tensors, state_dict_of

NEEDED = ("backbone", "whitening")  # parts that an earlier network of the same system must share


def init_weights(model: RetrievalModel, init: str, say: Callable[[str], None] = print) -> set[str]:
    """Gives a new network its first weights.

    Args:
        model: as built.
        init: ``imagenet``, ``random``, the path of a backbone's state dict, or that of a checkpoint: howl's, or one of
            a system's authors.
        say: is told which parts of a checkpoint are taken and which are not, and the licence of weights whose authors
            restrict their use.

    Returns:
        the names of the network's parts that got theirs: the backbone; from a checkpoint of the same system, or of one
        that it extends, also the whitening, which stays as the earlier network learned it, and refinements that both
        networks have.

    Raises:
        HowlError: as ``init_backbone`` and ``Checkpoint.load``, or the networks do not fit each other.
    """
    if init == "random":
        return {"backbone"}
    path = imagenet_file(model.config.backbone) if init == "imagenet" else Path(init)
    if not path.exists():
        raise MissingError(f"--init {init}: no such file; nor is it imagenet or random")
    content = load_tensors(path)
    if is_checkpoint(content):
        earlier = Checkpoint.of(content, path)
        if earlier.licence:
            say(f"{path}: {earlier.licence}")
        loaded = load_matching(model, earlier, path)
        left = ", ".join(sorted({key.partition(".")[0] for key in earlier.weights} - loaded))
        say(f"from {path}: {', '.join(sorted(loaded))}{left and f'; left there: {left}'}")
        return loaded
    load_state(model.backbone, state_dict_of(content, path), path)
    return {"backbone"}


def init_backbone(backbone: Backbone, name: str, init: str) -> None:
    """Fills a backbone; layers of a file beyond the backbone's end (the classifier, a last stage) are left out.

    Args:
        backbone: as built.
        name: of the backbone in ``train.backbones.BUILDERS``.
        init: ``imagenet``, ``random`` (it stays as built) or the path of a state dict.

    Raises:
        HowlError: the weights are not on this machine, are not a plain state dict, or do not fit the backbone.
    """
    if init == "random":
        return
    path = imagenet_file(name) if init == "imagenet" else Path(init)
    load_state(backbone, state_dict_of(load_tensors(path), path), path)


def load_matching(model: RetrievalModel, earlier: Checkpoint, path: Path) -> set[str]:
    """Backbone and whitening of an earlier network, and the refinements that both have; of another system the backbone.

    Raises:
        HowlError: the backbone differs, or the dimensions of the same system; the line names the option.
    """
    loaded = set()
    theirs_too = system_named(earlier.system)
    parts = theirs_too.parts if isinstance(model, theirs_too) else {"backbone": model.parts["backbone"]}
    for name, settings in parts.items():
        module = getattr(model, name)
        if module is None or not module.state_dict() or (name == "whitening" and not earlier.is_whitened):
            continue
        different = [key for key in settings if getattr(earlier.network, key) != getattr(model.config, key)]
        if different and name in NEEDED:
            theirs = getattr(earlier.network, different[0])
            raise IncompatibleError(
                f"--init {path}: a network of --{different[0]} {theirs}: give the same options, or another --init"
            )
        if not different:
            prefix = f"{name}."
            weights = {
                key.removeprefix(prefix): value for key, value in earlier.weights.items() if key.startswith(prefix)
            }
            load_state(module, weights, path)
            loaded.add(name)
    return loaded
