"""Files of tensors: written whole or not at all, and read without ever running what is in them."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import HowlError
from runtime.io.atomic import atomic_write


def load_tensors(path: Path) -> Any:
    """The tensors, plain values and containers of a file that ``torch.save`` wrote, on the CPU.

    NumPy's numbers come as Python's, and ``defaultdict`` as ``dict``: training code leaves both beside the weights.

    Raises:
        HowlError: the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    try:
        # PyTorch has its doubts about odd files: so have we, below
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HowlError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        if not begins_like_tensors(path):
            raise HowlError(f"{path}: not a file of tensors") from None
        raise HowlError(f"{path}: refused: only tensors and plain values are read; nothing in it was run") from None
    except Exception:  # a damaged file can raise any
        raise HowlError(f"{path}: damaged, or not a file of tensors") from None


def save_tensors(path: Path, content: Any) -> None:
    """Writes what ``load_tensors`` reads: tensors, plain values, containers. Raises HowlError as ``atomic_write``."""
    with atomic_write(path) as file:
        torch.save(content, file)


def begins_like_tensors(path: Path) -> bool:
    """Whether it is a ZIP archive or a pickle, as ``torch.save`` writes."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


class _NumberType:
    """Stands in for ``numpy.dtype``, whose real objects are shared by all of NumPy: a file must not alter them."""

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
    """Stands in for ``defaultdict``: its default is of no use to a reader."""
    return {}


PLAIN: list[Any] = [  # beyond what PyTorch lets pass: each name of a file, and what it is taken for
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),  # NumPy 1's module path, and NumPy 2's
    (_number, "numpy._core.multiarray.scalar"),
    (_dict, "collections.defaultdict"),
    (list, "builtins.list"),
]
