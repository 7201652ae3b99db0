"""Reading published data sets, which come as pickles, without letting them run code."""

import pickle
from pathlib import Path
from typing import Any

from runtime.errors import HowlError

# What a pickle of NumPy arrays and plain containers names, under NumPy 1's and 2's module paths.
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
    }
)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
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
        raise HowlError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise HowlError(f"{path}: refused: {error}; only arrays and plain containers are read") from None
    except (
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        ImportError,
        OSError,
    ) as error:
        raise HowlError(f"{path}: not a readable pickle: {error}") from None
