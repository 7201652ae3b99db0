"""The compiled inner loops (C, beside this file): arithmetic on arrays, without any decisions.

Every function checks its arrays, and lets other Python threads run while it computes. An array of another data type or
layout raises ``ctypes.ArgumentError``; one whose shape does not fit the others raises ``ValueError``.

Those that search, ``score``, ``correspond``, ``products``, ``take`` and ``take_rows``, survive the loss of
memory-mapped pages (``guard.h``). All others, and NumPy, do not: read a memory map with them only right after a check
of its file.
"""

import ctypes
from collections.abc import Callable
from ctypes import c_double, c_int, c_int64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.ctypeslib import ndpointer
from numpy.typing import NDArray

from runtime.errors import DependencyError

LIBRARY = Path(__file__).with_name("kernels.so")
IMAGES = 65_536  # totals of an inverted file: as many as uint16 can number
UNIT = 2.0**-40  # of totals: integers, so that their sum does not depend on its order
MAX_NEAREST = 32  # words that `assign` finds for a descriptor
TILE, PANEL, STEP = 6, 64, 4  # descriptors, words and dimensions that are multiplied together
ROUNDED = 127  # the largest 8-bit value
FAR = -(2**28)  # bias of the words that pad a panel

TERMS = 6  # of an affine map
CORRESPONDENCE = np.dtype([("row", np.uint32), ("geometry", np.uint32), ("weight", np.int64)])
HIT = np.dtype([("score", np.float64), ("image", np.int64)])


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise DependencyError(f"{LIBRARY}: cannot be loaded ({error}); build it with: pip install -e .") from None


_library = _load()


class _Array:
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


def _in(dtype: type | np.dtype, ndim: int = 1) -> _Array:
    """An array that C reads."""
    return _Array(dtype, ndim, written=False)


def _out(dtype: type | np.dtype, ndim: int = 1) -> _Array:
    """An array that C writes: a read-only one, such as a memory map, is refused."""
    return _Array(dtype, ndim, written=True)


def _optional(dtype: type | np.dtype, *, written: bool = False) -> _Array:
    """An array of one axis, or None, which C gets as NULL."""
    return _Array(dtype, 1, written, is_optional=True)


def _declare(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of the library; ctypes checks the types of its arguments at every call.

    Raises:
        ctypes.ArgumentError: by the function, for an array of another type or layout.
    """
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


def _check_shapes(**expected: tuple[NDArray, tuple[int, ...]]) -> None:
    """Checks shapes, so that C never reads or writes beyond an array: by name, an array and the shape it must have.

    Raises:
        ValueError: an array has another shape.
    """
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name}: expected the shape {shape}, got {array.shape}")


def _check_pages(status: int) -> None:
    """Raises OSError if C returned −1: a page of a memory map is lost."""
    if status < 0:
        raise OSError("a file was truncated, or cannot be read any more")


_aggregate = _declare(
    "howl_aggregate",
    c_int64,
    *(_in(np.float32, 2), _in(np.int64, 2), c_int64, c_int64),  # descriptors, words [n, m]
    *(_in(np.float32, 2), c_int64, c_int64),  # centroids [C, D]
    *(_out(np.uint64), _out(np.uint64), _out(np.uint32), _out(np.uint64, 2)),  # two of keys, distinct, codes
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
    _check_shapes(descriptors=(descriptors, (n, dimensions)))
    found = _aggregate(
        *(descriptors, words, n, assignments, centroids, size, dimensions),
        *(keys[0], keys[1], distinct, codes),
    )
    if found < 0:
        raise ValueError(f"a word is not among the {size} of the codebook")
    return distinct[:found].copy(), codes[:found].copy()


_score = _declare(
    "howl_score",
    c_int,
    *(_in(np.uint32), _in(np.int64), c_int64, _in(np.uint16), _in(np.uint64, 2), c_int64),  # the inverted file
    *(_in(np.uint32), _in(np.uint64, 2), c_int64),  # the query
    *(_in(np.int64), c_int64, _out(np.uint32), _out(np.int64)),  # weights, images, narrow, totals
)


def score(
    words: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    query_words: NDArray[np.uint32],
    query_codes: NDArray[np.uint64],
    weights: NDArray[np.int64],
    n: int,
) -> NDArray[np.int64]:
    """Totals int64 [n], by image: the sums of the weights of the query's matches.

    Args:
        words, offsets, images, codes: as in ``InvertedFile``; ``words`` ascending.
        query_words: uint32 [q], ascending.
        query_codes: uint64 [q, L].
        weights: int64 [64·L + 1], of a match, by Hamming distance.
        n: images, 65,536 at most.

    Raises:
        OSError: a memory-mapped file was truncated since, or its disk failed.
    """
    if n > IMAGES:
        raise ValueError(f"{n} images: at most {IMAGES} can be numbered")
    rows, entries, length = len(words), len(images), codes.shape[1]
    totals, narrow = np.empty(IMAGES, np.int64), np.empty(IMAGES, np.uint32)
    _check_shapes(
        offsets=(offsets, (rows + 1,)),
        codes=(codes, (entries, length)),
        query_codes=(query_codes, (len(query_words), length)),
        weights=(weights, (64 * length + 1,)),
    )
    status = _score(
        *(words, offsets, rows, images, codes, length),
        *(query_words, query_codes, len(query_words)),
        *(weights, n, narrow, totals),
    )
    _check_pages(status)
    return totals[:n]


_best = _declare(
    "howl_best",
    c_int64,
    *(_in(np.int64), _in(np.bool_), _in(np.uint32), _in(np.float64), c_int64),  # the images
    *(c_double, c_int64, c_int64, _out(HIT)),  # unit, words of the query, top, hits
)


def best(
    totals: NDArray[np.int64],
    live: NDArray[np.bool_],
    word_counts: NDArray[np.uint32],
    inverse_norms: NDArray[np.float64],
    query_words: int,
    top: int,
) -> NDArray[np.void]:
    """The at most ``top`` largest scores above 0, total · UNIT / √(query_words · word_counts), largest first.

    Equal scores are in the order of the images. Returns a structured array with fields ``score`` and ``image``.

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
    _check_shapes(totals=(totals, (n,)), word_counts=(word_counts, (n,)), inverse_norms=(inverse_norms, (n,)))
    found = _best(totals, live, word_counts, inverse_norms, n, UNIT, query_words, len(hits), hits)
    return hits[:found]


_products = _declare(
    "howl_products",
    c_int,
    *(_in(np.float16, 2), c_int64, c_int64, _in(np.float32), _out(np.float32)),  # vectors, query, scores
)


def products(vectors: NDArray[np.float16], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n]: the inner products of vectors, float16 [n, G], with a query, float32 [G].

    Raises:
        OSError: a memory-mapped file was truncated since, or its disk failed.
    """
    n, dimensions = vectors.shape
    scores = np.empty(n, np.float32)
    _check_shapes(query=(query, (dimensions,)))
    _check_pages(_products(vectors, n, dimensions, query, scores))
    return scores


_take = _declare(
    "howl_take",
    c_int,
    *(_in(np.uint32), _in(np.int64), c_int64, _in(np.uint16), _in(np.uint64, 2), c_int64),  # the inverted file
    *(_in(np.int32), _in(np.int64), _out(np.int64), _out(np.uint32), _out(np.uint64, 2)),  # numbers … codes
)


def take(
    words: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    numbers: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.int64]]:
    """The entries of some images of an inverted file, image by image.

    Args:
        words, offsets, images, codes: as in ``InvertedFile``; ``words`` ascending.
        numbers: int32 [65536], by image: its number among the wanted ones, or −1.
        counts: int64 [k], how many entries each wanted one has.

    Returns:
        the words of one after the other, each ascending, uint32 [Σ counts]; their codes, uint64 [Σ counts, L]; and
        how many of each were found, int64 [k].

    Raises:
        OSError: a memory-mapped file was truncated since, or its disk failed.
    """
    rows, entries, length = len(words), len(images), codes.shape[1]
    if int(numbers.max(initial=-1)) >= len(counts) or int(counts.min(initial=0)) < 0:
        raise ValueError("a wanted image has no place")
    _check_shapes(offsets=(offsets, (rows + 1,)), codes=(codes, (entries, length)), numbers=(numbers, (IMAGES,)))
    ends = np.cumsum(counts)
    starts = ends - counts
    cursors, total = starts.copy(), int(counts.sum())
    to_words, to_codes = np.empty(total, np.uint32), np.empty((total, length), np.uint64)
    _check_pages(_take(words, offsets, rows, images, codes, length, numbers, ends, cursors, to_words, to_codes))
    return to_words, to_codes, cursors - starts


_compare = _declare(
    "howl_compare",
    None,
    *(_in(np.int64), c_int64, _in(np.uint16), _in(np.uint64, 2), c_int64),  # offsets, images, codes
    *(_in(np.int64), c_int64, _out(np.int64, 2)),  # weights, images, totals
)


def compare(
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    weights: NDArray[np.int64],
    n: int,
) -> NDArray[np.int64]:
    """Totals int64 [n, n] of all pairs of images: the sums of the weights of their matches; symmetric.

    Args:
        offsets, images, codes: as in ``InvertedFile``, of n images.
        weights: int64 [64·L + 1], of a match, by Hamming distance.
        n: images.
    """
    rows, (entries, length) = len(offsets) - 1, codes.shape
    if entries and int(images.max()) >= n:
        raise ValueError(f"an image is not among the {n}")
    _check_shapes(images=(images, (entries,)), weights=(weights, (64 * length + 1,)))
    totals = np.zeros((n, n), np.int64)
    _compare(offsets, rows, images, codes, length, weights, n, totals)
    # An image is as similar to another as that is to it; on the diagonal both are the same.
    return totals + np.tril(totals, -1).T


_take_rows = _declare(
    "howl_take_rows",
    c_int,
    *(_in(np.float16, 2), c_int64, _in(np.int64), c_int64, _out(np.float16, 2)),  # vectors, rows, taken
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
    _check_pages(_take_rows(vectors, dimensions, rows, len(rows), taken))
    return taken


_place = _declare(
    "howl_place",
    None,
    *(_in(np.uint32), _in(np.uint64, 2), c_int64, _optional(np.uint32)),  # words, codes, geometry
    *(_in(np.uint32), c_int64, _out(np.int64)),  # word counts, cursors
    *(_out(np.uint16), _out(np.uint64, 2), _optional(np.uint32, written=True)),  # images, codes, geometry
)


def place(
    words: NDArray[np.uint32],
    codes: NDArray[np.uint64],
    geometry: NDArray[np.uint32] | None,
    word_counts: NDArray[np.uint32],
    cursors: NDArray[np.int64],
    to_images: NDArray[np.uint16],
    to_codes: NDArray[np.uint64],
    to_geometry: NDArray[np.uint32] | None,
) -> None:
    """Copies the entries of images, one image after the other, to where the cursors of their words point.

    Args:
        words, codes: uint32 [e] and uint64 [e, L] of all images.
        geometry: uint32 [e], or None; ``to_geometry`` likewise.
        word_counts: uint32 [n], of every image; e in sum.
        cursors: int64 [above the largest word]; advanced.
        to_images, to_codes: uint16 [e] and uint64 [e, L], filled.
    """
    entries, length = codes.shape
    if int(word_counts.sum()) != entries or (entries and int(words.max()) >= len(cursors)):
        raise ValueError("the entries are not those of the images, or a word has no cursor")
    _check_shapes(
        words=(words, (entries,)),
        to_images=(to_images, (entries,)),
        to_codes=(to_codes, (entries, length)),
    )
    _check_geometry(geometry, entries, to_geometry, entries)
    _place(
        *(words, codes, length, geometry, word_counts, len(word_counts), cursors),
        *(to_images, to_codes, to_geometry),
    )


def _check_geometry(
    geometry: NDArray[np.uint32] | None, entries: int, to_geometry: NDArray[np.uint32] | None, to_entries: int
) -> None:
    """Raises ValueError unless both are there, of these lengths, or neither is."""
    if (geometry is None) != (to_geometry is None):
        raise ValueError("geometry: there must be both, or neither")
    if geometry is not None and to_geometry is not None:
        _check_shapes(geometry=(geometry, (entries,)), to_geometry=(to_geometry, (to_entries,)))


_count_kept = _declare(
    *("howl_count_kept", None),
    *(_in(np.int64), c_int64, _in(np.uint16), _in(np.int32), _out(np.int64)),  # offsets, images, numbers, counts
)


def count_kept(offsets: NDArray[np.int64], images: NDArray[np.uint16], numbers: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 [rows]: the entries of every row whose image has a number of 0 or more; ``numbers`` is int32 [65536]."""
    rows = len(offsets) - 1
    counts = np.zeros(rows, np.int64)
    _check_shapes(numbers=(numbers, (IMAGES,)))
    _count_kept(offsets, rows, images, numbers, counts)
    return counts


_place_kept = _declare(
    "howl_place_kept",
    None,
    *(_in(np.int64), c_int64, _in(np.uint16), _in(np.uint64, 2), c_int64),  # offsets, images, codes
    *(_optional(np.uint32), _in(np.int32), _out(np.int64)),  # geometry, numbers, cursors
    *(_out(np.uint16), _out(np.uint64, 2), _optional(np.uint32, written=True)),  # images, codes, geometry
)


def place_kept(
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    geometry: NDArray[np.uint32] | None,
    numbers: NDArray[np.int32],
    cursors: NDArray[np.int64],
    to_images: NDArray[np.uint16],
    to_codes: NDArray[np.uint64],
    to_geometry: NDArray[np.uint32] | None,
) -> None:
    """Copies those entries, with the new numbers, to where the cursors of their rows, int64 [rows], point."""
    rows, (entries, length) = len(offsets) - 1, codes.shape
    _check_shapes(
        images=(images, (entries,)),
        numbers=(numbers, (IMAGES,)),
        cursors=(cursors, (rows,)),
        to_codes=(to_codes, (len(to_images), length)),
    )
    _check_geometry(geometry, entries, to_geometry, len(to_images))
    _place_kept(
        *(offsets, rows, images, codes, length, geometry, numbers, cursors),
        *(to_images, to_codes, to_geometry),
    )


CAN_ASSIGN = bool(_declare("howl_can_assign", c_int)())  # whether the processor has AVX-512 with VNNI

_assign = _declare(
    "howl_assign",
    None,
    *(_in(np.uint8, 4), _in(np.int32), c_int64, c_int64),  # words, biases
    *(_in(np.int8, 2), _in(np.float32), c_int64, c_int64),  # rounded, slacks; descriptors, those with padding
    *(_in(np.float32, 2), _in(np.float32, 2), c_int64, c_int64),  # descriptors, centroids, dimensions, nearest
    *(_out(np.uint8), _out(np.int64, 2)),  # scratch, assigned
)
_search_bytes = _declare("howl_search_bytes", c_int64)


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
    _check_shapes(
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


_correspond = _declare(
    "howl_correspond",
    c_int,
    *(_in(np.uint32), _in(np.int64), c_int64, _in(np.uint16), _in(np.uint64, 2), _in(np.uint32), c_int64),  # the file
    *(_in(np.uint32), _in(np.uint64, 2), c_int64, _in(np.int64)),  # the query, weights
    *(_in(np.int32), c_int64, _out(np.int32), _out(CORRESPONDENCE, 2)),  # candidates, capacity, counts, found
)


def correspond(
    words: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    geometry: NDArray[np.uint32],
    query_words: NDArray[np.uint32],
    query_codes: NDArray[np.uint64],
    weights: NDArray[np.int64],
    candidates: NDArray[np.int32],
    counts: NDArray[np.int32],
    found: NDArray[np.void],
) -> None:
    """Appends the correspondences of a query with some images, those that have a weight, in the order of its words.

    Args:
        words, offsets, images, codes, geometry: as in ``InvertedFile``; ``words`` ascending.
        query_words: uint32 [q], ascending.
        query_codes: uint64 [q, L].
        weights: int64 [64·L + 1], of a match, by Hamming distance.
        candidates: int32 [65536], by image: its number among the candidates, or −1.
        counts: int32 [c], of each candidate's correspondences; advanced.
        found: CORRESPONDENCE [c, at least q], filled.

    Raises:
        OSError: a memory-mapped file was truncated since, or its disk failed.
    """
    rows, entries, length, asked = len(words), len(images), codes.shape[1], len(query_words)
    if int(candidates.max(initial=-1)) >= len(counts) or found.shape[1] < asked:
        raise ValueError("a candidate has no place")
    _check_shapes(
        offsets=(offsets, (rows + 1,)),
        codes=(codes, (entries, length)),
        geometry=(geometry, (entries,)),
        query_codes=(query_codes, (asked, length)),
        weights=(weights, (64 * length + 1,)),
        candidates=(candidates, (IMAGES,)),
        found=(found, (len(counts), found.shape[1])),
    )
    status = _correspond(
        *(words, offsets, rows, images, codes, geometry, length),
        *(query_words, query_codes, asked, weights),
        *(candidates, found.shape[1], counts, found),
    )
    _check_pages(status)


_verify = _declare(
    "howl_verify",
    None,
    *(_in(np.uint32), _in(CORRESPONDENCE, 2), _in(np.int32), c_int64, c_int64),  # query, found, counts, candidates
    *(c_double, c_double, c_int64, c_int64, c_double, c_double, c_double),  # tolerance … unit
    *(_out(np.uint8), _out(np.int32), _out(np.uint8)),  # pairs, chosen, marked: working memory
    *(_out(np.float64), _out(np.int32), _out(np.float64, 2), _out(np.uint8, 2)),  # weights, inliers, maps, marks
)
_pair_bytes = _declare("howl_pair_bytes", c_int64)


def verify(
    query: NDArray[np.uint32],
    found: NDArray[np.void],
    counts: NDArray[np.int32],
    *,
    tolerance: float,
    octaves: float,
    hypotheses: int,
    refinements: int,
    pull: float,
    most_zoom: float,
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64], NDArray[np.uint8]]:
    """How a query lies in each candidate, and which correspondences agree with that.

    Args:
        query: uint32 [q], the geometry of the query's words.
        found: CORRESPONDENCE [c, capacity].
        counts: int32 [c], of each candidate's correspondences.
        tolerance: of a position, in pixels of the image's level of the pyramid.
        octaves: by which zooms may differ.
        hypotheses: of a candidate, at most: those of the heaviest correspondences.
        refinements: by least squares, at most.
        pull: of a refinement towards the map before, in squared pixels.
        most_zoom: octaves, of the image over the query or the other way round.

    Returns:
        of each candidate the weight of its inliers, float64 [c]; how many, int32 [c]; the affine map from the query's
        pixels to the image's, float64 [c, 6]; and which correspondences are inliers, uint8 [c, capacity].
    """
    candidates, capacity = found.shape
    _check_shapes(counts=(counts, (candidates,)))
    if candidates and (int(counts.max()) > capacity or int(counts.min()) < 0):
        raise ValueError("more correspondences than there is room for")
    if hypotheses < 1 or refinements < 0:
        raise ValueError(f"{hypotheses} hypotheses and {refinements} refinements")
    if any(int(found["row"][i, :n].max(initial=0)) >= len(query) for i, n in enumerate(counts.tolist()) if n):
        raise ValueError("a correspondence of no word of the query")
    weights, inliers = np.zeros(candidates), np.zeros(candidates, np.int32)
    maps, marks = np.zeros((candidates, TERMS)), np.zeros((candidates, capacity), np.uint8)
    pairs = np.empty(int(_pair_bytes()) * max(1, capacity), np.uint8)
    chosen, marked = np.empty(max(1, hypotheses), np.int32), np.empty(2 * max(1, capacity), np.uint8)
    _verify(
        *(query, found, counts, candidates, capacity),
        *(tolerance, octaves, hypotheses, refinements, pull, most_zoom, UNIT),
        *(pairs, chosen, marked, weights, inliers, maps, marks),
    )
    return weights, inliers, maps, marks
