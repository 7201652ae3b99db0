"""howl's side of the comparison: the runtime's own functions, nothing else."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkCodes, AsmkParameters, aggregate, selectivity
from runtime.index import Hit, Index
from tools.experiments.asmk_benchmark.mixture import DIMENSIONS
from tools.experiments.asmk_benchmark.workload import image_number

PARAMETERS = AsmkParameters()
WORTH = selectivity(DIMENSIONS, PARAMETERS)
TOP = 100


class Answer(NamedTuple):
    """Ranked images int64 [k] and their scores float64 [k]."""

    images: NDArray[np.int64]
    scores: NDArray[np.float64]


class Ours:
    """A query in three steps."""

    def __init__(self, codebook: Codebook, index: Index) -> None:
        self._codebook = codebook
        self._index = index

    def quantise(self, descriptors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The words of descriptors, int64 [n, 5]."""
        return self._codebook.assign(descriptors, PARAMETERS.multiple_assignment)

    def aggregate(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> AsmkCodes:
        """The words and codes of an image."""
        return aggregate(descriptors, words, self._codebook.centroids)

    def search(self, query: AsmkCodes) -> list[Hit]:
        """The TOP best images."""
        return self._index.search(query, WORTH, TOP)

    def answer(self, hits: list[Hit]) -> Answer:
        """The same, in numbers."""
        return Answer(np.array([image_number(hit.id) for hit in hits], np.int64), np.array([hit.score for hit in hits]))

    def scores(self, query: AsmkCodes) -> NDArray[np.float64]:
        """Of all images, float64 [n]."""
        return self._index.scores(query, WORTH)


def aggregated(descriptors: NDArray[np.float32], codebook: Codebook) -> AsmkCodes:
    """The words and codes of a query."""
    return aggregate(descriptors, codebook.assign(descriptors, PARAMETERS.multiple_assignment), codebook.centroids)
