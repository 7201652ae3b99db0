"""Inner products of global descriptors."""

from ctypes import c_int, c_int64

import numpy as np
from numpy.typing import NDArray

from runtime.native.library import check_pages, check_shapes, declare, read, written

_products = declare(
    "howl_products",
    c_int,
    *(read(np.float16, 2), c_int64, c_int64, read(np.float32), written(np.float32)),  # vectors, query, scores
)


def products(vectors: NDArray[np.float16], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n]: the inner products of vectors, float16 [n, G], with a query, float32 [G].

    Raises:
        OSError: a memory-mapped file was truncated since, or its disk failed.
    """
    n, dimensions = vectors.shape
    scores = np.empty(n, np.float32)
    check_shapes(query=(query, (dimensions,)))
    check_pages(_products(vectors, n, dimensions, query, scores))
    return scores


_take_rows = declare(
    "howl_take_rows",
    c_int,
    *(read(np.float16, 2), c_int64, read(np.int64), c_int64, written(np.float16, 2)),  # vectors, rows, taken
)


def take_rows(vectors: NDArray[np.float16], rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Some rows, int64 [k], of vectors, float16 [n, G], copied: float16 [k, G].

    Raises:
        OSError: a memory-mapped file was truncated since, or its disk failed.
    """
    n, dimensions = vectors.shape
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n:
        raise ValueError(f"a row is not among the {n}")
    taken = np.empty((len(rows), dimensions), np.float16)
    check_pages(_take_rows(vectors, dimensions, rows, len(rows), taken))
    return taken
