"""Searching an inverted file, and making one."""

from ctypes import c_double, c_int, c_int64

import numpy as np
from numpy.typing import NDArray

from runtime.native.library import check_pages, check_shapes, declare, optional, read, written

IMAGES = 65_536  # totals of an inverted file: as many as uint16 can number
UNIT = 2.0**-40  # of totals: integers, so that their sum does not depend on its order
CORRESPONDENCE = np.dtype([("row", np.uint32), ("geometry", np.uint32), ("weight", np.int64)])
HIT = np.dtype([("score", np.float64), ("image", np.int64)])

_score = declare(
    "howl_score",
    c_int,
    *(read(np.uint32), read(np.int64), c_int64, read(np.uint16), read(np.uint64, 2), c_int64),  # the inverted file
    *(read(np.uint32), read(np.uint64, 2), c_int64),  # the query
    *(read(np.int64), c_int64, written(np.uint32), written(np.int64)),  # weights, images, narrow, totals
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
    check_shapes(
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
    check_pages(status)
    return totals[:n]


_best = declare(
    "howl_best",
    c_int64,
    *(read(np.int64), read(np.bool_), read(np.uint32), read(np.float64), c_int64),  # the images
    *(c_double, c_int64, c_int64, written(HIT)),  # unit, words of the query, top, hits
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
    check_shapes(totals=(totals, (n,)), word_counts=(word_counts, (n,)), inverse_norms=(inverse_norms, (n,)))
    found = _best(totals, live, word_counts, inverse_norms, n, UNIT, query_words, len(hits), hits)
    return hits[:found]


_correspond = declare(
    "howl_correspond",
    c_int,
    *(
        read(np.uint32),
        read(np.int64),
        c_int64,
        read(np.uint16),
        read(np.uint64, 2),
        read(np.uint32),
        c_int64,
    ),  # the file
    *(read(np.uint32), read(np.uint64, 2), c_int64, read(np.int64)),  # the query, weights
    *(read(np.int32), c_int64, written(np.int32), written(CORRESPONDENCE, 2)),  # candidates, capacity, counts, found
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
    check_shapes(
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
    check_pages(status)


_take = declare(
    "howl_take",
    c_int,
    *(read(np.uint32), read(np.int64), c_int64, read(np.uint16), read(np.uint64, 2), c_int64),  # the inverted file
    *(read(np.int32), read(np.int64), written(np.int64), written(np.uint32), written(np.uint64, 2)),  # numbers … codes
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
    check_shapes(offsets=(offsets, (rows + 1,)), codes=(codes, (entries, length)), numbers=(numbers, (IMAGES,)))
    ends = np.cumsum(counts)
    starts = ends - counts
    cursors, total = starts.copy(), int(counts.sum())
    to_words, to_codes = np.empty(total, np.uint32), np.empty((total, length), np.uint64)
    check_pages(_take(words, offsets, rows, images, codes, length, numbers, ends, cursors, to_words, to_codes))
    return to_words, to_codes, cursors - starts


_compare = declare(
    "howl_compare",
    None,
    *(read(np.int64), c_int64, read(np.uint16), read(np.uint64, 2), c_int64),  # offsets, images, codes
    *(read(np.int64), c_int64, written(np.int64, 2)),  # weights, images, totals
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
    check_shapes(images=(images, (entries,)), weights=(weights, (64 * length + 1,)))
    totals = np.zeros((n, n), np.int64)
    _compare(offsets, rows, images, codes, length, weights, n, totals)
    # An image is as similar to another as that is to it; on the diagonal both are the same.
    return totals + np.tril(totals, -1).T


_place = declare(
    "howl_place",
    None,
    *(read(np.uint32), read(np.uint64, 2), c_int64, optional(np.uint32)),  # words, codes, geometry
    *(read(np.uint32), c_int64, written(np.int64)),  # word counts, cursors
    *(written(np.uint16), written(np.uint64, 2), optional(np.uint32, written=True)),  # images, codes, geometry
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
    check_shapes(
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
        check_shapes(geometry=(geometry, (entries,)), to_geometry=(to_geometry, (to_entries,)))


_count_kept = declare(
    *("howl_count_kept", None),
    *(read(np.int64), c_int64, read(np.uint16), read(np.int32), written(np.int64)),  # offsets, images, numbers, counts
)


def count_kept(offsets: NDArray[np.int64], images: NDArray[np.uint16], numbers: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 [rows]: the entries of every row whose image has a number of 0 or more; ``numbers`` is int32 [65536]."""
    rows = len(offsets) - 1
    counts = np.zeros(rows, np.int64)
    check_shapes(numbers=(numbers, (IMAGES,)))
    _count_kept(offsets, rows, images, numbers, counts)
    return counts


_place_kept = declare(
    "howl_place_kept",
    None,
    *(read(np.int64), c_int64, read(np.uint16), read(np.uint64, 2), c_int64),  # offsets, images, codes
    *(optional(np.uint32), read(np.int32), written(np.int64)),  # geometry, numbers, cursors
    *(written(np.uint16), written(np.uint64, 2), optional(np.uint32, written=True)),  # images, codes, geometry
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
    check_shapes(
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
