"""howl's side of the comparison: the runtime's own functions, nothing else."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery
from runtime.asmk.kernel import AsmkKernel, AsmkParameters, aggregate
from runtime.index import Hit, Index
from tools.experiments.asmk_benchmark.workload import image_number

PARAMETERS = AsmkParameters()
TOP = 100


class Answer(NamedTuple):
    """Ranked images int64 [k] and their scores float64 [k]."""

    images: NDArray[np.int64]
    scores: NDArray[np.float64]


class Ours:
    """A query in three steps."""

    def __init__(self, codebook: Codebook, index: Index) -> None:
        self._kernel = AsmkKernel(codebook, PARAMETERS)
        self._index = index

    def quantise(self, descriptors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The words of descriptors, int64 [n, 5]."""
        return self._kernel.codebook.assign(descriptors, PARAMETERS.multiple_assignment)

    def aggregate(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> AsmkCodes:
        """The words and codes of an image."""
        return aggregate(descriptors, words, self._kernel.codebook.centroids)

    def search(self, codes: AsmkCodes) -> list[Hit]:
        """The TOP best images."""
        return self._index.search(self._kernel.query(codes), TOP)

    def answer(self, hits: list[Hit]) -> Answer:
        """The same, in numbers."""
        return Answer(np.array([image_number(hit.id) for hit in hits], np.int64), np.array([hit.score for hit in hits]))

    def scores(self, codes: AsmkCodes) -> NDArray[np.float64]:
        """Of all images, float64 [n]."""
        return self._index.scores(self._kernel.query(codes))


def encode_query(descriptors: NDArray[np.float32], codebook: Codebook) -> AsmkQuery:
    """A query, as an index is searched with."""
    kernel = AsmkKernel(codebook, PARAMETERS)
    return kernel.query(kernel.encode(descriptors, PARAMETERS.multiple_assignment))
