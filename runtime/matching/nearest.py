"""Which descriptors of two photos are the same points, by their distances alone: mutual nearest neighbours."""

import numpy as np
from numpy.typing import NDArray


def mutual_nearest(first: NDArray[np.float32], second: NDArray[np.float32], most: float) -> NDArray[np.int64]:
    """The pairs of descriptors of which each is the nearest to the other, and near enough.

    Args:
        first, second: float32 [n, D] and [n', D], of length 1.
        most: their distance (L2), at most.

    Returns:
        int64 [m, 2], rows of the first and of the second, each once at most.
    """
    if not len(first) or not len(second):
        return np.empty((0, 2), np.int64)
    products = first @ second.T  # ‖x − y‖² = 2 − 2·xᵀy
    there = products.argmax(axis=1)
    best = products[np.arange(len(first)), there]
    rows = np.flatnonzero((best == products.max(axis=0)[there]) & (best >= 1 - most**2 / 2))
    _, once = np.unique(there[rows], return_index=True)  # of descriptors that are equal, the first
    rows = rows[np.sort(once)]
    return np.stack([rows, there[rows]], axis=1).astype(np.int64)
