"""Files of tensors: written whole or not at all, read without running what is in them, and fitted into modules."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import DamagedError, IncompatibleError, MissingError
from runtime.io.atomic import atomic_write


def load_tensors(path: Path) -> Any:
    """The tensors, plain values and containers of a file that ``torch.save`` wrote, on the CPU.

    NumPy's numbers come as Python's, and ``defaultdict`` as ``dict``: training code leaves both beside the weights.

    Raises:
        HowlError: the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    try:
        # PyTorch warns about odd files; below they are errors.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        if not begins_like_tensors(path):
            raise IncompatibleError(f"{path}: not a file of tensors") from None
        raise IncompatibleError(
            f"{path}: refused: only tensors and plain values are read; nothing in it was run"
        ) from None
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


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Gives a module the weights that have its names; others in ``state`` are left out.

    Raises:
        HowlError: weights of the module are missing in ``path``, or have another shape; the module is as it was.
    """
    # Some published weights are older than BatchNorm's counters of batches, which frozen statistics do not need.
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in state]
    if missing:
        raise IncompatibleError(
            f"{path}: no weights for this network: {missing[0]} and {len(missing) - 1} more are missing"
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise IncompatibleError(
                f"{path}: {key} is {tuple(state[key].shape)}, this network needs {tuple(value.shape)}: weights of "
                f"another network"
            )
    module.load_state_dict({key: state[key] for key in wanted}, strict=False)


def begins_like_tensors(path: Path) -> bool:
    """Whether it is a ZIP archive or a pickle, as ``torch.save`` writes."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


class _NumberType:
    """Stands in for ``numpy.dtype``: its real objects are shared by all of NumPy, and a file must not alter them."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError(f"it holds NumPy values of type {code}")
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        if self.order not in ("=", "<", ">", "|"):
            raise pickle.UnpicklingError(f"it holds NumPy values of byte order {self.order}")
        return np.dtype(self.order + self.code)


def _number(kind: _NumberType, data: bytes) -> Any:
    """Stands in for what rebuilds a NumPy number."""
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


def _dict(*_: Any) -> dict:
    """Stands in for ``defaultdict``: a reader has no use for its default."""
    return {}


PLAIN: list[Any] = [  # allowed beyond PyTorch's own list: what stands in for each name in a file
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),  # NumPy 1's module path, and NumPy 2's
    (_number, "numpy._core.multiarray.scalar"),
    (_dict, "collections.defaultdict"),
    (list, "builtins.list"),
]
