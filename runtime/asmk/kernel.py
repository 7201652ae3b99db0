"""ASMK*: the binary aggregated selective match kernel (Tolias, Avrithis, Jégou, IJCV 2016; as used by HOW).

Per image and visual word w the residuals of its descriptors are summed and kept as signs (``aggregate``). Two images
are compared word by word: s = 1 − 2·hamming/D counts s^α where s ≥ τ (``selectivity``), and the sum over shared
words is divided by √n_query · √n_image, n being the number of distinct words of a side (``InvertedFile.scores``).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime import native
from runtime.errors import HowlError

CODE_BITS = 64  # bits of one machine word of a code


@dataclass(frozen=True)
class AsmkParameters:
    """How images are compared.

    Attributes:
        alpha: α, the exponent of selectivity.
        threshold: τ in [−1, 1], the least similarity of two codes that counts: 0 as HOW published it, 0.25 in the
            original MATLAB code.
        multiple_assignment: visual words that a query descriptor is given (multiple assignment).
    """

    alpha: float = 3.0
    threshold: float = 0.0
    multiple_assignment: int = 5

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise HowlError(f"alpha is {self.alpha}: the exponent of selectivity must be above 0")
        if not -1 <= self.threshold <= 1:
            raise HowlError(f"threshold is {self.threshold}: similarities lie between -1 and 1")
        if self.multiple_assignment < 1:
            raise HowlError(f"multiple_assignment is {self.multiple_assignment}: a descriptor needs a word at least")


class AsmkCodes(NamedTuple):
    """One image as ASMK sees it.

    Attributes:
        words: uint32 [n], its distinct visual words, ascending.
        codes: uint64 [n, ⌈D/64⌉], the signs of each word's summed residual; padding bits are 0.
    """

    words: NDArray[np.uint32]
    codes: NDArray[np.uint64]


def aggregate(
    descriptors: NDArray[np.float32], words: NDArray[np.integer], centroids: NDArray[np.float32]
) -> AsmkCodes:
    """Sums each word's residuals, V_w = Σ (x − c_w), and keeps their signs.

    Args:
        descriptors: float32 [n, D].
        words: integer [n, m], the m words that each descriptor is assigned to.
        centroids: float32 [C, D], the codebook.
    """
    arrays = np.ascontiguousarray(descriptors, np.float32), np.ascontiguousarray(words, np.int64)
    return AsmkCodes(*native.aggregate(*arrays, centroids))


def pack_signs(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """float [n, D] → uint64 [n, ⌈D/64⌉]: bit i is set where component i is above 0."""
    n, dimensions = vectors.shape
    bits = np.zeros((n, code_length(dimensions) * CODE_BITS), bool)
    bits[:, :dimensions] = vectors > 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def code_length(dimensions: int) -> int:
    """uint64 words of a code of D bits."""
    return -(-dimensions // CODE_BITS)


def selectivity(dimensions: int, parameters: AsmkParameters) -> NDArray[np.float64]:
    """What a match is worth, by Hamming distance 0…D: s^α where s = 1 − 2·h/D reaches τ, 0 elsewhere.

    With a negative τ a negative s keeps its sign: sign(s)·|s|^α.
    """
    s = 1 - 2 * np.arange(dimensions + 1) / dimensions
    return np.where(s >= parameters.threshold, np.sign(s) * np.abs(s) ** parameters.alpha, 0.0)
