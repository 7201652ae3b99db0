"""Binary codes: what ASMK stores of an image, and its queries."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CODE_BITS = 64  # bits of one machine word of a code


class AsmkCodes(NamedTuple):
    """One image, encoded.

    Attributes:
        words: uint32 [n], its distinct visual words, ascending.
        codes: uint64 [n, ⌈D/64⌉], the signs of each word's summed residual; padding bits are 0.
        geometry: uint32 [n], where each word's strongest descriptor lies (``runtime.asmk.geometry``); None if that is
            not known.
    """

    words: NDArray[np.uint32]
    codes: NDArray[np.uint64]
    geometry: NDArray[np.uint32] | None = None


class AsmkQuery(NamedTuple):
    """A query's codes, with the weights of their matches.

    Attributes:
        words, codes, geometry: as in ``AsmkCodes``, aggregated over all assigned words.
        similarity_table: float64 [D + 1], the weight of a match by Hamming distance (``AsmkKernel.similarity_table``).
    """

    words: NDArray[np.uint32]
    codes: NDArray[np.uint64]
    geometry: NDArray[np.uint32] | None
    similarity_table: NDArray[np.float64]


def pack_signs(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """float [n, D] → uint64 [n, ⌈D/64⌉]: bit i is set if component i is above 0."""
    n, dimensions = vectors.shape
    bits = np.zeros((n, code_length(dimensions) * CODE_BITS), bool)
    bits[:, :dimensions] = vectors > 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def code_length(dimensions: int) -> int:
    """uint64 words of a code of D bits."""
    return -(-dimensions // CODE_BITS)
