"""ASMK*: the binary aggregated selective match kernel (Tolias, Avrithis, Jégou, IJCV 2016; as used by HOW).

For each visual word w of an image, the residuals of its descriptors are summed, V_w = Σ (x − c_w), and stored as signs
(``aggregate``). Two images are compared word by word: a similarity s = 1 − 2·hamming/D counts s^α if s ≥ τ
(``selectivity``). The sum over shared words is divided by √n_query · √n_image, where n is the number of distinct words
(``InvertedFile.scores``; ``AsmkKernel.match`` shows it word by word).
"""

import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery
from runtime.asmk.geometry import pack_geometry
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.regions import MAX_LEVELS, aggregate_regions, region_boxes
from runtime.errors import UsageError
from runtime.features import Features
from runtime.first_stage import ASMK, Layout
from runtime.lazy import lazy_property


@dataclass(frozen=True)
class AsmkParameters:
    """How images are compared.

    Attributes:
        alpha: α, the exponent of selectivity.
        threshold: τ in [−1, 1], the least similarity of two codes that counts: 0 as HOW published it, 0.25 in the
            original MATLAB code.
        multiple_assignment: visual words that each query descriptor is assigned to.
    """

    alpha: float = 3.0
    threshold: float = 0.0
    multiple_assignment: int = 5

    def __post_init__(self) -> None:
        for name in ("alpha", "threshold"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int | float):
                raise UsageError(f"{name}: a number is needed, not {type(value).__name__}")
        if not 0 < self.alpha <= sys.float_info.max:  # which a whole number in a file may exceed
            raise UsageError(f"alpha is {self.alpha}: the exponent of selectivity must be a number above 0")
        if not -1 <= self.threshold <= 1:
            raise UsageError(f"threshold is {self.threshold}: similarities lie between -1 and 1")
        if not isinstance(self.multiple_assignment, int) or self.multiple_assignment < 1:
            raise UsageError(f"multiple_assignment is {self.multiple_assignment}: a descriptor needs at least one word")


class AsmkKernel:
    """A codebook and parameters: turns local features into codes, and compares them.

    Attributes:
        codebook: the visual words.
        parameters: α, τ and multiple assignment.
        regions: levels of the grid by which an index's images are aggregated (R-ASMK); 0 for ASMK. Queries are not.
    """

    def __init__(self, codebook: Codebook, parameters: AsmkParameters) -> None:
        self.codebook = codebook
        self.parameters = parameters
        self.regions = 0

    def __str__(self) -> str:
        return f"τ = {self.parameters.threshold:g}, α = {self.parameters.alpha:g}"

    @property
    def layout(self) -> Layout:
        """How an index stores what this kernel encodes."""
        return Layout(ASMK, self.codebook.dimensions, geometry=True, regions=self.regions)

    @property
    def settings(self) -> dict[str, Any]:
        """The method and its parameters, as values for JSON."""
        return {"method": ASMK, **asdict(self.parameters)}

    @lazy_property
    def similarity_table(self) -> NDArray[np.float64]:
        """float64 [D + 1]: the weight of a match by Hamming distance."""
        return selectivity(self.codebook.dimensions, self.parameters)

    def for_regions(self, levels: int) -> Self:
        """The same kernel for an index that aggregates by regions; raises UsageError for too many levels."""
        if not 0 <= levels <= MAX_LEVELS:
            raise UsageError(f"regions {levels}: a grid has 1 to {MAX_LEVELS} levels")
        kernel = copy(self)
        kernel.regions = levels
        return kernel

    def encode_database(self, features: Features) -> AsmkCodes:
        """Words and codes as an index stores them: every descriptor belongs to its nearest word."""
        local = features.need_local()
        if not self.regions:
            return self.encode(local.descriptors, 1, local.positions)
        boxes = region_boxes(*features.need_size(), self.regions)
        words = self.codebook.assign(local.descriptors, 1)
        codes = aggregate_regions(local.descriptors, words[:, 0], self.codebook.centroids, local.positions, boxes)
        return self._located(codes, words, local.positions)

    def encode_query(self, features: Features, *, threads: int = 1) -> AsmkQuery:
        """Words and codes of a query, whose descriptors belong to several words each."""
        local, assignments = features.need_local(), self.parameters.multiple_assignment
        return self.query(self.encode(local.descriptors, assignments, local.positions, threads=threads))

    def encode(
        self,
        descriptors: NDArray[np.float32],
        assignments: int,
        positions: NDArray[np.float32] | None = None,
        *,
        threads: int = 1,
    ) -> AsmkCodes:
        """Assigns descriptors to their nearest words, and aggregates them word by word.

        Args:
            descriptors: float32 [n, D], the strongest first.
            assignments: words for each.
            positions: float32 [n, 3], as in ``LocalFeatures``; None if they are not known.
            threads: that share the descriptors.

        Raises:
            IncompatibleError: the descriptors have another dimension than the codebook.
        """
        words = self.codebook.assign(descriptors, assignments, threads=threads)
        codes = aggregate(descriptors, words, self.codebook.centroids)
        return codes if positions is None else self._located(codes, words, positions)

    @staticmethod
    def _located(codes: AsmkCodes, words: NDArray[np.int64], positions: NDArray[np.float32]) -> AsmkCodes:
        """Codes that say where the first of each word's descriptors lies, which is its strongest."""
        _, first = np.unique(words, return_index=True)
        return codes._replace(geometry=pack_geometry(positions)[first // max(1, words.shape[1])])

    def query(self, codes: AsmkCodes) -> AsmkQuery:
        """The codes as a query, with the weights of their matches."""
        return AsmkQuery(*codes, self.similarity_table)

    def build(self, images: Sequence[AsmkCodes]) -> InvertedFile:
        """A store of images, with their geometry if all have it."""
        has_geometry = all(image.geometry is not None for image in images)
        return InvertedFile.build(images, replace(self.layout, geometry=has_geometry))

    def searcher(self, index: Any) -> Any:
        """What searches an index: the index itself."""
        return index

    def match(self, query: NDArray[np.float32], image: NDArray[np.float32]) -> "Matching":
        """Matches two images by their descriptors as a search does, word by word, for people to look at.

        Args:
            query: float32 [n, D], assigned to ``parameters.multiple_assignment`` words each.
            image: float32 [n', D], assigned to one word each, as in an index.

        Raises:
            IncompatibleError: the descriptors do not fit the codebook.
        """
        centroids = self.codebook.centroids
        query_words = self.codebook.assign(query, self.parameters.multiple_assignment)
        image_words = self.codebook.assign(image, 1)
        shared = self.shared_words(aggregate(query, query_words, centroids), aggregate(image, image_words, centroids))
        by_weight = np.argsort(-shared.weights, kind="stable")
        words = shared.words[by_weight].tolist()
        pairs = [_nearest_first(_pairs_of(word, query_words, image_words), query, image) for word in words]
        none = np.empty(0, np.int64)
        return Matching(
            shared,
            pairs=np.concatenate([*pairs, none.reshape(0, 2)]),
            weights=np.repeat(shared.weights[by_weight], [len(of_word) for of_word in pairs]),
            ranks=np.concatenate([*(np.arange(len(of_word)) for of_word in pairs), none]),
        )

    def shared_words(self, query: AsmkCodes, image: AsmkCodes) -> "SharedWords":
        """The words of both images and what they add to the score."""
        words, of_query, of_image = np.intersect1d(query.words, image.words, assume_unique=True, return_indices=True)
        distances = np.bitwise_count(query.codes[of_query] ^ image.codes[of_image]).sum(axis=1)
        weights = self.similarity_table[distances]
        norm = np.sqrt(len(query.words)) * np.sqrt(len(image.words))
        return SharedWords(words, weights, float(weights.sum() / norm) if norm else 0.0)


class SharedWords(NamedTuple):
    """What two images have in common.

    Attributes:
        words: uint32 [m], the visual words of both, ascending.
        weights: float64 [m], what each adds to the score: s^α if s = 1 − 2·hamming/D reaches τ, otherwise 0.
        score: Σ weights / (√n_query · √n_image), as a search gives it.
    """

    words: NDArray[np.uint32]
    weights: NDArray[np.float64]
    score: float


@dataclass(frozen=True)
class Matching:
    """Two images, matched.

    Attributes:
        shared: the words of both, and the score.
        pairs: int64 [p, 2], the rows of a query descriptor and of an image descriptor that have a word in common. Those
            of the word with the largest weight come first; within a word, the nearest descriptors. With multiple
            assignment, two descriptors can share several words; they are then a pair for each.
        weights: float64 [p], of each pair's word.
        ranks: int64 [p], 0 for the nearest pair of its word, 1 for the next.
    """

    shared: SharedWords
    pairs: NDArray[np.int64]
    weights: NDArray[np.float64]
    ranks: NDArray[np.int64]


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


def selectivity(dimensions: int, parameters: AsmkParameters) -> NDArray[np.float64]:
    """The similarity table, by Hamming distance 0…D: s^α if s = 1 − 2·h/D reaches τ, otherwise 0.

    With a negative τ a negative s keeps its sign: sign(s)·|s|^α.
    """
    s = 1 - 2 * np.arange(dimensions + 1) / dimensions
    return np.where(s >= parameters.threshold, np.sign(s) * np.abs(s) ** parameters.alpha, 0.0)


def _pairs_of(word: int, query_words: NDArray[np.int64], image_words: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs of a query descriptor and an image descriptor that are assigned to a word: rows, int64 [p, 2].

    Args:
        word: the word.
        query_words: int64 [n, m], the words of each descriptor of the query.
        image_words: int64 [n', m'], those of the image.
    """
    of_query, of_image = (np.flatnonzero((words == word).any(axis=1)) for words in (query_words, image_words))
    return np.stack(np.meshgrid(of_query, of_image, indexing="ij"), axis=-1).reshape(-1, 2)


def _nearest_first(
    pairs: NDArray[np.int64], query: NDArray[np.float32], image: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The pairs in the order of the distance (L2) between their descriptors."""
    differences = query[pairs[:, 0]] - image[pairs[:, 1]]
    return pairs[np.argsort((differences**2).sum(axis=1), kind="stable")]
