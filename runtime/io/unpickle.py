"""Reading published data sets, which come as pickles, without letting them run code."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import DamagedError, MissingError

# The names in a pickle of NumPy arrays and plain containers, under NumPy 1's and 2's module paths.
ALLOWED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("builtins", "set"),
        ("__builtin__", "set"),
        ("builtins", "bytes"),  # for empty ones, before protocol 3
        ("__builtin__", "bytes"),
    }
)
PLAIN_KINDS = "biufcSU"  # of NumPy's types


def _plain_dtype(*arguments: Any) -> np.dtype:
    """``np.dtype``, for numbers and text only: a pickle can crash NumPy with arrays of objects or dates."""
    dtype = np.dtype(*arguments)
    if dtype.kind not in PLAIN_KINDS:
        raise pickle.UnpicklingError(f"it holds an array of {dtype}")
    return dtype


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if (module, name) == ("numpy", "dtype"):
            return _plain_dtype
        return super().find_class(module, name)


def load_plain_pickle(path: Path) -> Any:
    """The arrays, numbers, strings and containers of a pickle, written by Python 2 or 3.

    Raises:
        HowlError: the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise DamagedError(f"{path}: refused: {_one_line(error)}; only plain arrays and containers are read") from None
    except Exception as error:  # a damaged pickle can raise any exception
        raise DamagedError(f"{path}: not a readable pickle: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
