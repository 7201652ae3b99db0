"""Files of tensors: written whole or not at all, read without running what is in them, and fitted into modules."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from runtime.errors import DamagedError, IncompatibleError, MissingError, UsageError
from runtime.io.files import atomic_write
from runtime.io.unpickle import RefusedError, one_line
from train.weights.tensor_file import read_tensor_file

# What code raises that is given values of another type, size or range than it is made for.
ODDITIES = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, UsageError)


def load_tensors(path: Path) -> Any:
    """The tensors, plain values and containers of a file that ``torch.save`` wrote, on the CPU.

    NumPy's numbers come as Python's, its arrays as tensors, and ``defaultdict`` as ``dict``: training code leaves them
    beside the weights.

    Raises:
        HowlError: the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    try:
        return read_tensor_file(path)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except RefusedError as error:
        raise IncompatibleError(
            f"{path}: refused: {one_line(error)}; only tensors and plain values are read, nothing in it was run"
        ) from None
    except (IncompatibleError, MemoryError):
        raise
    except Exception:  # a damaged file can raise any
        raise DamagedError(f"{path}: damaged, or not a file of tensors") from None


def save_tensors(path: Path, content: Any) -> None:
    """Writes what ``load_tensors`` reads: tensors, plain values, containers. Raises HowlError as ``atomic_write``."""
    with atomic_write(path) as file:
        torch.save(content, file)


def state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors that are the content of a file. Raises HowlError for anything else."""
    if not is_state_dict(content):
        raise IncompatibleError(f"{path}: not a state dict: it must map names to tensors")
    return content


def is_state_dict(value: Any) -> TypeGuard[dict[str, Tensor]]:
    """Whether it maps names to tensors and holds nothing else."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path, called: Callable[[str], str] = str) -> None:
    """Gives a module the weights that have its names; others in ``state`` are left out.

    Args:
        module: as built.
        state: of the file.
        path: of the file.
        called: the name in the file of a weight of the module.

    Raises:
        HowlError: as ``check_weights``; the module is as it was.
    """
    # Some published weights are older than BatchNorm's counters of batches, which frozen statistics do not need.
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    check_weights(wanted, state, path, called)
    module.load_state_dict({key: state[key] for key in wanted}, strict=False)


def check_weights(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, called: Callable[[str], str] = str
) -> None:
    """Makes sure that a file has all weights of a module, and that they are numbers.

    Args:
        wanted: the module's state dict, for its names, shapes and kinds.
        state: of the file; what is not wanted is passed over.
        path: of the file.
        called: the name in the file of a weight that is wanted.

    Raises:
        HowlError: weights are missing, have another shape or kind, or are not finite; the line names the file.
    """
    missing = [key for key in wanted if key not in state]
    if missing:
        more = "is missing" if len(missing) == 1 else f"and {len(missing) - 1} more are missing"
        raise IncompatibleError(
            f"{path}: no weights for this network: {called(missing[0])} {more}; fetch it again, or name the file that "
            "it is of"
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise IncompatibleError(
                f"{path}: {called(key)} is {tuple(state[key].shape)}, this network needs {tuple(value.shape)}: "
                f"weights of another network"
            )
        if state[key].is_floating_point() != value.is_floating_point():
            raise IncompatibleError(f"{path}: {called(key)} is {state[key].dtype}, this network needs {value.dtype}")
        if not state[key].to(value.dtype).isfinite().all():
            raise DamagedError(
                f"{path}: {called(key)} has values that are no finite numbers: fetch it, or train it, again"
            )
