"""Arrays in NumPy's .npy format, from files that may be anything."""

import math
import tokenize
from io import BytesIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from numpy.typing import NDArray


def parse_npy(content: bytes, dtype: npt.DTypeLike, axes: int) -> NDArray:
    """The read-only array that a file's content holds; nothing is copied.

    The header is not believed: the dtype is the caller's, and the shape must fit the content's length.

    Raises:
        ValueError: it is no .npy of this dtype and so many axes.
    """
    file = BytesIO(content)
    try:
        npy.read_magic(file)
        shape, is_fortran, found = npy.read_array_header_1_0(file)
    # NumPy parses the header as Python, which has errors of its own.
    except (SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise ValueError(f"no header of .npy: {str(error) or type(error).__name__}") from None
    if found != np.dtype(dtype) or len(shape) != axes or min(shape, default=0) < 0:
        raise ValueError(f"{found} {list(shape)} instead of {np.dtype(dtype)} of {axes} axes")
    if file.tell() + math.prod(shape) * found.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for {list(shape)} numbers")
    array = np.frombuffer(content, found, offset=file.tell())
    return array.reshape(shape, order="F" if is_fortran else "C")
