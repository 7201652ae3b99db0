"""Matching: the visual words that two images share, what each is worth to ASMK, and the descriptors that meet in them.

A search needs no more than the sum. This is the same sum, word by word, for people to look at.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkCodes, AsmkParameters, aggregate, selectivity


class SharedWords(NamedTuple):
    """What two images have in common.

    Attributes:
        words: uint32 [m], the visual words of both, ascending.
        worths: float64 [m], what each adds to the score: s^α, where s = 1 − 2·hamming/D reaches τ; 0 elsewhere.
        score: Σ worths / (√n_query · √n_image), as a search gives it.
    """

    words: NDArray[np.uint32]
    worths: NDArray[np.float64]
    score: float


@dataclass(frozen=True)
class Matching:
    """Two images, matched.

    Attributes:
        shared: the words of both, and the score.
        pairs: int64 [p, 2], the rows of a query descriptor and of an image descriptor that have a word in common. Those
            of the worthiest word come first; within a word, the nearest descriptors. Two descriptors of a query with
            multiple assignment can share several words; they are a pair for each.
        worths: float64 [p], of each pair's word.
    ranks: int64 [p], 0 for the nearest pair of its word, 1 for the next.
    """

    shared: SharedWords
    pairs: NDArray[np.int64]
    worths: NDArray[np.float64]
    ranks: NDArray[np.int64]


def match(
    query: NDArray[np.float32], image: NDArray[np.float32], codebook: Codebook, parameters: AsmkParameters
) -> Matching:
    """Matches two images by their descriptors, as a search does.

    Args:
        query: float32 [n, D], given ``parameters.multiple_assignment`` words each.
        image: float32 [n', D], given one word each, as in an index.
        codebook: of the index.
        parameters: α, τ and the query's assignments.

    Raises:
        HowlError: the descriptors do not fit the codebook.
    """
    query_words = codebook.assign(query, parameters.multiple_assignment)
    image_words = codebook.assign(image, 1)
    shared = shared_words(
        aggregate(query, query_words, codebook.centroids),
        aggregate(image, image_words, codebook.centroids),
        selectivity(codebook.dimensions, parameters),
    )
    by_worth = np.argsort(-shared.worths, kind="stable")
    words = shared.words[by_worth].tolist()
    pairs = [nearest_first(pairs_of(word, query_words, image_words), query, image) for word in words]
    none = np.empty(0, np.int64)
    return Matching(
        shared,
        pairs=np.concatenate([*pairs, none.reshape(0, 2)]),
        worths=np.repeat(shared.worths[by_worth], [len(of_word) for of_word in pairs]),
        ranks=np.concatenate([*(np.arange(len(of_word)) for of_word in pairs), none]),
    )


def shared_words(query: AsmkCodes, image: AsmkCodes, worth: NDArray[np.float64]) -> SharedWords:
    """The words of both images and what they add to the score.

    Args:
        query: aggregated over all its assigned words.
        image: as the index keeps it.
        worth: float64 [D + 1], by Hamming distance: ``selectivity``.
    """
    words, of_query, of_image = np.intersect1d(query.words, image.words, assume_unique=True, return_indices=True)
    distances = np.bitwise_count(query.codes[of_query] ^ image.codes[of_image]).sum(axis=1)
    worths = worth[distances]
    norm = np.sqrt(len(query.words)) * np.sqrt(len(image.words))
    return SharedWords(words, worths, float(worths.sum() / norm) if norm else 0.0)


def pairs_of(word: int, query_words: NDArray[np.int64], image_words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every descriptor of the query that is assigned to a word, with every one of the image: rows, int64 [p, 2].

    Args:
        word: the word.
        query_words: int64 [n, m], the words of each descriptor of the query.
        image_words: int64 [n', m'], those of the image.
    """
    of_query, of_image = (np.flatnonzero((words == word).any(axis=1)) for words in (query_words, image_words))
    return np.stack(np.meshgrid(of_query, of_image, indexing="ij"), axis=-1).reshape(-1, 2)


def nearest_first(
    pairs: NDArray[np.int64], query: NDArray[np.float32], image: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The pairs in the order of the distance (L2) between their descriptors."""
    differences = query[pairs[:, 0]] - image[pairs[:, 1]]
    return pairs[np.argsort((differences**2).sum(axis=1), kind="stable")]
