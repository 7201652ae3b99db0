"""The compiled inner loops (C, beside this file): what is in here is arithmetic on arrays, without any decision.

Every function checks the arrays that it hands over, and lets other Python threads run while it computes.
"""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.errors import HowlError

LIBRARY = Path(__file__).with_name("kernels.so")
IMAGES = 65_536  # totals of an inverted file: as many as uint16 can number
UNIT = 2.0**-40  # of totals: integers, so that their sum does not depend on its order
MAX_NEAREST = 32  # words that `Assigner` finds for a descriptor
TILE, PANEL, STEP = 6, 64, 4  # descriptors, words and dimensions that are multiplied together
ROUNDED = 127  # the largest 8-bit value
FAR = -(2**28)  # bias of words that only fill up a panel

HIT = np.dtype([("score", np.float64), ("image", np.int64)])


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise HowlError(f"{LIBRARY}: cannot be loaded ({error}); build it with: pip install -e .") from None
    for name in ("howl_aggregate", "howl_best", "howl_search_bytes"):
        getattr(library, name).restype = ctypes.c_int64
    return library


_library = _load()


def _array(array: NDArray, dtype: DTypeLike, *shape: int | None) -> ctypes.c_void_p:
    """The address of a C-contiguous array of one type and shape (None: any length)."""
    fits = len(shape) == array.ndim and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits or not array.flags.c_contiguous:
        raise ValueError(f"expected a contiguous {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return ctypes.c_void_p(array.ctypes.data)


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
    found = _library.howl_aggregate(
        _array(descriptors, np.float32, n, dimensions),
        _array(words, np.int64, n, assignments),
        ctypes.c_int64(n),
        ctypes.c_int64(assignments),
        _array(centroids, np.float32, size, dimensions),
        ctypes.c_int64(size),
        ctypes.c_int64(dimensions),
        _array(keys[0], np.uint64, None),
        _array(keys[1], np.uint64, None),
        _array(distinct, np.uint32, None),
        _array(codes, np.uint64, None, None),
    )
    if found < 0:
        raise ValueError(f"a word is not among the {size} of the codebook")
    return distinct[:found].copy(), codes[:found].copy()


def score(
    words: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    query_words: NDArray[np.uint32],
    query_codes: NDArray[np.uint64],
    worth: NDArray[np.int64],
    n: int,
) -> NDArray[np.int64]:
    """Totals int64 [n], by image: the sums of what the entries of the query's words are worth.

    Args:
        words, offsets, images, codes: as of ``InvertedFile``; ``words`` ascending.
        query_words: uint32 [q], ascending.
        query_codes: uint64 [q, L].
        worth: int64 [64·L + 1], by Hamming distance.
        n: images, 65,536 at most.
    """
    if n > IMAGES:
        raise ValueError(f"{n} images: at most {IMAGES} can be numbered")
    rows, entries, length = len(words), len(images), codes.shape[1]
    totals, narrow = np.empty(IMAGES, np.int64), np.empty(IMAGES, np.uint32)
    _library.howl_score(
        _array(words, np.uint32, rows),
        _array(offsets, np.int64, rows + 1),
        ctypes.c_int64(rows),
        _array(images, np.uint16, entries),
        _array(codes, np.uint64, entries, length),
        ctypes.c_int64(length),
        _array(query_words, np.uint32, None),
        _array(query_codes, np.uint64, len(query_words), length),
        ctypes.c_int64(len(query_words)),
        _array(worth, np.int64, 64 * length + 1),
        ctypes.c_int64(n),
        _array(narrow, np.uint32, IMAGES),
        _array(totals, np.int64, IMAGES),
    )
    return totals[:n]


def best(
    totals: NDArray[np.int64],
    live: NDArray[np.bool_],
    word_counts: NDArray[np.uint32],
    inverse_norms: NDArray[np.float64],
    query_words: int,
    top: int,
) -> NDArray[np.void]:
    """The at most ``top`` largest scores above 0, total · UNIT / √(query_words · word_counts), largest first.

    Equal ones come in the order of the images. Returns a structured array with fields ``score`` and ``image``.

    Args:
        totals: int64 [n].
        live: bool [n], the images that compete.
        word_counts: uint32 [n].
        inverse_norms: float64 [n], 1/√word_counts, 0 for an image without words.
    """
    n = len(live)
    hits = np.empty(max(0, min(top, n)), HIT)
    if len(hits) == 0:
        return hits
    found = _library.howl_best(
        _array(totals, np.int64, n),
        _array(live, np.bool_, n),
        _array(word_counts, np.uint32, n),
        _array(inverse_norms, np.float64, n),
        ctypes.c_int64(n),
        ctypes.c_double(UNIT),
        ctypes.c_int64(query_words),
        ctypes.c_int64(len(hits)),
        _array(hits, HIT, None),
    )
    return hits[:found]


def products(vectors: NDArray[np.float16], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n]: the inner products of vectors, float16 [n, G], with a query, float32 [G]."""
    n, dimensions = vectors.shape
    scores = np.empty(n, np.float32)
    _library.howl_products(
        _array(vectors, np.float16, n, dimensions),
        ctypes.c_int64(n),
        ctypes.c_int64(dimensions),
        _array(query, np.float32, dimensions),
        _array(scores, np.float32, n),
    )
    return scores


def place(
    words: NDArray[np.uint32],
    codes: NDArray[np.uint64],
    word_counts: NDArray[np.uint32],
    cursors: NDArray[np.int64],
    to_images: NDArray[np.uint16],
    to_codes: NDArray[np.uint64],
) -> None:
    """Puts the entries of images, one image after the other, where the cursors of their words say.

    Args:
        words, codes: uint32 [e] and uint64 [e, L] of all images.
        word_counts: uint32 [n], of every image; e in sum.
        cursors: int64 [above the largest word]; they move on.
        to_images, to_codes: uint16 [e] and uint64 [e, L], filled.
    """
    entries, length = codes.shape
    if int(word_counts.sum()) != entries or (entries and int(words.max()) >= len(cursors)):
        raise ValueError("the entries are not those of the images, or a word has no cursor")
    _library.howl_place(
        _array(words, np.uint32, entries),
        _array(codes, np.uint64, entries, length),
        ctypes.c_int64(length),
        _array(word_counts, np.uint32, None),
        ctypes.c_int64(len(word_counts)),
        _array(cursors, np.int64, None),
        _array(to_images, np.uint16, entries),
        _array(to_codes, np.uint64, entries, length),
    )


def count_kept(offsets: NDArray[np.int64], images: NDArray[np.uint16], numbers: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 [rows]: the entries of every row whose image has a number of 0 or more; ``numbers`` is int32 [65536]."""
    rows = len(offsets) - 1
    counts = np.zeros(rows, np.int64)
    _library.howl_count_kept(
        _array(offsets, np.int64, rows + 1),
        ctypes.c_int64(rows),
        _array(images, np.uint16, None),
        _array(numbers, np.int32, IMAGES),
        _array(counts, np.int64, rows),
    )
    return counts


def place_kept(
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    numbers: NDArray[np.int32],
    cursors: NDArray[np.int64],
    to_images: NDArray[np.uint16],
    to_codes: NDArray[np.uint64],
) -> None:
    """Puts those entries where the cursors of their rows, int64 [rows], say, under the new numbers."""
    rows, (entries, length) = len(offsets) - 1, codes.shape
    _library.howl_place_kept(
        _array(offsets, np.int64, rows + 1),
        ctypes.c_int64(rows),
        _array(images, np.uint16, entries),
        _array(codes, np.uint64, entries, length),
        ctypes.c_int64(length),
        _array(numbers, np.int32, IMAGES),
        _array(cursors, np.int64, rows),
        _array(to_images, np.uint16, None),
        _array(to_codes, np.uint64, len(to_images), length),
    )


CAN_ASSIGN = bool(_library.howl_can_assign())  # whether the processor has AVX-512 with VNNI


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
    """The nearest words of descriptors, int64 [n, nearest]; −1 first where the rounding leaves too many open.

    Args:
        words: uint8 [panels, steps, 64, 4], the rounded centroids + 128.
        biases: int32 [panels · 64], −½ of their squared norms, rounded down.
        rounded: int8 [n up to a multiple of 6, 4 · steps], the rounded descriptors.
        slacks: float32 [the same], by how much a rounded distance may exceed that of the last of the nearest.
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
    _library.howl_assign(
        _array(words, np.uint8, panels, steps, PANEL, STEP),
        _array(biases, np.int32, panels * PANEL),
        ctypes.c_int64(panels),
        ctypes.c_int64(steps),
        _array(rounded, np.int8, None, STEP * steps),
        _array(slacks, np.float32, len(rounded)),
        ctypes.c_int64(n),
        ctypes.c_int64(len(rounded)),
        _array(descriptors, np.float32, n, dimensions),
        _array(centroids, np.float32, None, dimensions),
        ctypes.c_int64(dimensions),
        ctypes.c_int64(nearest),
        _array(scratch, np.uint8, scratch_bytes(len(rounded))),
        _array(assigned, np.int64, n, nearest),
    )
    return assigned


def scratch_bytes(descriptors: int) -> int:
    """Bytes that ``assign`` needs to work."""
    return int(_library.howl_search_bytes()) * descriptors
