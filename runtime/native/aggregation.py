"""Making codes: residuals of the words that descriptors have, and the words themselves."""

from ctypes import c_int, c_int64

import numpy as np
from numpy.typing import NDArray

from runtime.native.library import check_shapes, declare, read, written

MAX_NEAREST = 32  # words that `assign` finds for a descriptor
TILE, PANEL, STEP = 6, 64, 4  # descriptors, words and dimensions that are multiplied together
ROUNDED = 127  # the largest 8-bit value
FAR = -(2**28)  # bias of the words that pad a panel

_aggregate = declare(
    "howl_aggregate",
    c_int64,
    *(read(np.float32, 2), read(np.int64, 2), c_int64, c_int64),  # descriptors, words [n, m]
    *(read(np.float32, 2), c_int64, c_int64),  # centroids [C, D]
    *(
        written(np.uint64),
        written(np.uint64),
        written(np.uint32),
        written(np.uint64, 2),
    ),  # two of keys, distinct, codes
)


def aggregate(
    descriptors: NDArray[np.float32], words: NDArray[np.int64], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Distinct words uint32 [w], ascending, and the signs of their summed residuals, uint64 [w, ⌈D/64⌉].

    Args:
        descriptors: float32 [n, D].
        words: int64 [n, m].
        centroids: float32 [C, D].

    Raises:
        ValueError: a word is not one of the C.
    """
    (n, assignments), (size, dimensions) = words.shape, centroids.shape
    distinct = np.empty(words.size, np.uint32)
    codes = np.empty((words.size, -(-dimensions // 64)), np.uint64)
    keys = np.empty((2, words.size), np.uint64)
    check_shapes(descriptors=(descriptors, (n, dimensions)))
    found = _aggregate(
        *(descriptors, words, n, assignments, centroids, size, dimensions),
        *(keys[0], keys[1], distinct, codes),
    )
    if found < 0:
        raise ValueError(f"a word is not among the {size} of the codebook")
    return distinct[:found].copy(), codes[:found].copy()


CAN_ASSIGN = bool(declare("howl_can_assign", c_int)())  # whether the processor has AVX-512 with VNNI


_assign = declare(
    "howl_assign",
    None,
    *(read(np.uint8, 4), read(np.int32), c_int64, c_int64),  # words, biases
    *(read(np.int8, 2), read(np.float32), c_int64, c_int64),  # rounded, slacks; descriptors, those with padding
    *(read(np.float32, 2), read(np.float32, 2), c_int64, c_int64),  # descriptors, centroids, dimensions, nearest
    *(written(np.uint8), written(np.int64, 2)),  # scratch, assigned
)


_search_bytes = declare("howl_search_bytes", c_int64)


def assign(
    words: NDArray[np.uint8],
    biases: NDArray[np.int32],
    rounded: NDArray[np.int8],
    slacks: NDArray[np.float32],
    descriptors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    nearest: int,
    scratch: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """The nearest words of descriptors, int64 [n, nearest]; −1 first if rounding leaves too many open.

    Args:
        words: uint8 [panels, steps, 64, 4], the rounded centroids + 128.
        biases: int32 [panels · 64], −½ of their squared norms, rounded down.
        rounded: int8 [n up to a multiple of 6, 4 · steps], the rounded descriptors.
        slacks: float32 [the same], by how much a rounded distance may exceed that of the last nearest word.
        descriptors: float32 [n, D].
        centroids: float32 [C, D].
        nearest: 1 … 32, at most C.
        scratch: uint8 [``scratch_bytes`` of the rounded descriptors].
    """
    (panels, steps, _, _), (n, dimensions) = words.shape, descriptors.shape
    if not (CAN_ASSIGN and 1 <= nearest <= min(MAX_NEAREST, len(centroids)) and len(centroids) <= panels * PANEL):
        raise ValueError("not for this processor, or not for so many words")
    if len(rounded) % TILE or len(rounded) < n:
        raise ValueError(f"{len(rounded)} rounded descriptors for {n}")
    assigned = np.empty((n, nearest), np.int64)
    check_shapes(
        words=(words, (panels, steps, PANEL, STEP)),
        biases=(biases, (panels * PANEL,)),
        rounded=(rounded, (len(rounded), STEP * steps)),
        slacks=(slacks, (len(rounded),)),
        centroids=(centroids, (len(centroids), dimensions)),
        scratch=(scratch, (scratch_bytes(len(rounded)),)),
    )
    _assign(
        *(words, biases, panels, steps, rounded, slacks, n, len(rounded)),
        *(descriptors, centroids, dimensions, nearest, scratch, assigned),
    )
    return assigned


def scratch_bytes(descriptors: int) -> int:
    """Bytes of working memory that ``assign`` needs."""
    return int(_search_bytes()) * descriptors
