"""The library of the compiled inner loops: its functions with the types of their arguments, and checks of arrays.

Every function checks its arrays, and lets other Python threads run while it computes. An array of another data type or
layout raises ``ctypes.ArgumentError``; one whose shape does not fit the others raises ``ValueError``.

Those that search, ``score``, ``correspond``, ``products``, ``take`` and ``take_rows``, survive the loss of
memory-mapped pages (``guard.h``). All others, and NumPy, do not: read a memory map with them only right after a check
of its file.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.ctypeslib import ndpointer
from numpy.typing import NDArray

from runtime.errors import DependencyError

LIBRARY = Path(__file__).with_name("kernels.so")


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise DependencyError(f"{LIBRARY}: cannot be loaded ({error}); build it with: pip install -e .") from None


_library = _load()


class Array:
    """The type of an argument: a C-contiguous array of one data type and number of dimensions.

    ``ndpointer`` checks it. Its own way to pass the address costs 1 µs more per array.
    """

    def __init__(self, dtype: type | np.dtype, ndim: int, written: bool, is_optional: bool = False) -> None:
        self._check: Any = ndpointer(dtype, ndim, flags=("C", "W") if written else "C").from_param
        self._is_optional = is_optional

    def from_param(self, array: NDArray | None) -> ctypes.c_void_p:
        if array is None and self._is_optional:
            return ctypes.c_void_p(None)
        return ctypes.c_void_p(self._check(array).data)


def read(dtype: type | np.dtype, ndim: int = 1) -> Array:
    """An array that C reads."""
    return Array(dtype, ndim, written=False)


def written(dtype: type | np.dtype, ndim: int = 1) -> Array:
    """An array that C writes: a read-only one, such as a memory map, is refused."""
    return Array(dtype, ndim, written=True)


def optional(dtype: type | np.dtype, *, written: bool = False) -> Array:
    """An array of one axis, or None, which C gets as NULL."""
    return Array(dtype, 1, written, is_optional=True)


def declare(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of the library; ctypes checks the types of its arguments at every call.

    Raises:
        ctypes.ArgumentError: by the function, for an array of another type or layout.
    """
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


def check_shapes(**expected: tuple[NDArray, tuple[int, ...]]) -> None:
    """Checks shapes, so that C never reads or writes beyond an array: by name, an array and the shape it must have.

    Raises:
        ValueError: an array has another shape.
    """
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name}: expected the shape {shape}, got {array.shape}")


def check_pages(status: int) -> None:
    """Raises OSError if C returned −1: a page of a memory map is lost."""
    if status < 0:
        raise OSError("a file was truncated, or cannot be read any more")
