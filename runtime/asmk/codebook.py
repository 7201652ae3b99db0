"""The codebook: visual words, learned by k-means, and the assignment of descriptors to them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.assignment import ROW_BATCH, ExactSearch, RoundedSearch
from runtime.cores import available_cores
from runtime.errors import DamagedError, IncompatibleError, MissingError, UsageError
from runtime.io.files import atomic_write, read_file, reason
from runtime.io.npy import parse_npy
from runtime.lazy import lazy_property

KMEANS_ITERATIONS = 10  # its objective hardly falls afterwards
KMEANS_SAMPLE = 64  # descriptors per word that it uses, at most
SUM_BATCH = 65_536  # descriptors, in k-means
NUDGE = 1 / 1024  # of its length, by which the halves of a split word move apart
DESCRIPTORS_PER_WORD = 32  # at least: the mean of fewer would say little
# Of a user's folder, at most: minutes of a CPU. Many photos matter more than many words (docs/experiments.md).
LEARNED_PHOTOS, LEARNED_WORDS = 1000, 8192


class Codebook:
    """C visual words in D dimensions.

    They may be of several kinds that lie apart on the diagonal, as those of a joined engine do: so far that the words
    nearest to a descriptor are of its own kind, and others need not be compared.
    """

    def __init__(self, centroids: NDArray[np.float32], kinds: int = 1) -> None:
        """``centroids``: float32 [C, D], of so many kinds."""
        self.centroids = np.ascontiguousarray(centroids, np.float32)
        self._kinds = kinds

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def dimensions(self) -> int:
        """D, of a descriptor."""
        return self.centroids.shape[1]

    def assign(self, descriptors: NDArray[np.float32], assignments: int, *, threads: int = 1) -> NDArray[np.int64]:
        """The nearest words (L2) of every descriptor, nearest first, exactly.

        Args:
            descriptors: float32 [n, D].
            assignments: m, words per descriptor (multiple assignment); C if that is less.
            threads: that share the descriptors if the processor has 8-bit products (AVX-512 VNNI); otherwise NumPy's
                matrix product uses its own threads.

        Returns:
            int64 [n, min(m, C)].

        Raises:
            IncompatibleError: the descriptors do not have D dimensions.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.dimensions:
            raise IncompatibleError(
                f"descriptors {descriptors.shape} do not fit a codebook of {self.dimensions} dimensions"
            )
        m = min(assignments, len(self))
        if len(descriptors) == 0:
            return np.empty((0, m), np.int64)
        if self._kinds > 1 and all(len(words) >= m for words in self._by_kind.values()):
            nearest = np.empty((len(descriptors), m), np.int64)
            kinds = self._kind_of(descriptors)
            for kind, words in self._by_kind.items():
                if len(rows := np.flatnonzero(kinds == kind)):
                    own = words.assign(descriptors[rows], m, threads=threads)
                    nearest[rows] = self._words_of_kind[kind][own]
            return nearest
        return self._assign(descriptors, m, threads)

    def _kind_of(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """int64 [n], the kind of each descriptor or word, by where it lies on the diagonal."""
        return np.searchsorted(self._borders, vectors.mean(axis=1))

    @lazy_property
    def _borders(self) -> NDArray[np.float32]:
        """Between the kinds: the middles of the widest gaps."""
        places = np.sort(self.centroids.mean(axis=1))
        widest = np.argsort(-np.diff(places), kind="stable")[: self._kinds - 1]
        return np.sort((places[widest] + places[widest + 1]) / 2)

    @lazy_property
    def _words_of_kind(self) -> dict[int, NDArray[np.int64]]:
        """The numbers of each kind's words."""
        kinds = self._kind_of(self.centroids)
        return {kind: np.flatnonzero(kinds == kind) for kind in range(self._kinds)}

    @lazy_property
    def _by_kind(self) -> "dict[int, Codebook]":
        return {kind: Codebook(self.centroids[words]) for kind, words in self._words_of_kind.items()}

    def _assign(self, descriptors: NDArray[np.float32], m: int, threads: int) -> NDArray[np.int64]:
        """``assign`` of n > 0 descriptors that fit, to m ≤ C words each."""
        threads = threads if native.CAN_ASSIGN else 1
        rows = min(ROW_BATCH, -(-len(descriptors) // threads))
        blocks = [descriptors[start : start + rows] for start in range(0, len(descriptors), rows)]
        if threads == 1 or len(blocks) == 1:
            return np.concatenate([self._assign_block(block, m) for block in blocks])
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(lambda block: self._assign_block(block, m), blocks)))

    def _assign_block(self, descriptors: NDArray[np.float32], m: int) -> NDArray[np.int64]:
        if not native.CAN_ASSIGN or m > native.MAX_NEAREST:
            return self._exact.nearest(descriptors, m)
        descriptors = np.ascontiguousarray(descriptors, np.float32)
        words = self._rounded.nearest(descriptors, m)
        open_rows = np.flatnonzero(words[:, 0] < 0)
        if len(open_rows):
            words[open_rows] = self._exact.nearest(descriptors[open_rows], m)
        return words

    @lazy_property
    def _exact(self) -> ExactSearch:
        return ExactSearch(self.centroids)

    @lazy_property
    def _rounded(self) -> RoundedSearch:
        return RoundedSearch(self.centroids)

    def save(self, path: Path) -> None:
        """Writes the centroids as a plain .npy file."""
        with atomic_write(path) as file:
            np.save(file, self.centroids)

    @classmethod
    def load(cls, path: Path, kinds: int = 1) -> "Codebook":
        """Reads what ``save`` wrote, of so many kinds. Raises HowlError if the file is missing or not a codebook."""
        try:
            centroids = parse_npy(read_file(path), np.float32, axes=2)
        except FileNotFoundError:
            raise MissingError(f"{path}: the codebook is missing; restore it, or export or import it again") from None
        except (ValueError, OSError) as error:
            why = " ".join(reason(error).split())[:200]
            raise DamagedError(f"{path}: not a codebook ({why}); restore it, or export or import it again") from None
        if not centroids.size or not np.isfinite(centroids).all():
            raise DamagedError(f"{path}: a codebook has words, and all of them are numbers; export or import it again")
        return cls(centroids, kinds)


def few_of_each(
    photos: Iterable[NDArray[np.float32]], number: int, words: int, *, seed: int
) -> list[NDArray[np.float32]]:
    """As many descriptors as ``learn_codebook`` takes for so many words: few of each photo, rather than all of some.

    Args:
        photos: the descriptors of each, float32 [n, D].
        number: of photos, at most.
        words: that are to be learned, at most.
        seed: of the draw.
    """
    random, few = np.random.default_rng(seed), max(1, words * KMEANS_SAMPLE // max(1, number))
    return [photo[random.permutation(len(photo))[:few]] for photo in photos]


def learn_codebook(descriptors: NDArray[np.float32], words: int, *, seed: int) -> Codebook:
    """k-means over descriptors [n, D]: at most 64 of them per word, ten rounds of Lloyd's algorithm.

    ``words`` is an upper bound: with fewer than 32 descriptors per word, the number of words is the largest power of
    two that gives each word at least 32.

    Raises:
        UsageError: there is no descriptor at all.
    """
    if len(descriptors) == 0:
        raise UsageError("no descriptors to learn a codebook from: are there readable photos?")
    affordable = max(1, len(descriptors) // DESCRIPTORS_PER_WORD)
    words = min(words, 2 ** (affordable.bit_length() - 1))
    return kmeans(descriptors, words, seed=seed)


def kmeans(descriptors: NDArray[np.float32], words: int, *, seed: int) -> Codebook:
    """Lloyd's algorithm from ``words`` of the n ≥ ``words`` descriptors [n, D], chosen by the seed."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(descriptors))[: words * KMEANS_SAMPLE]
    sample = np.ascontiguousarray(descriptors[chosen], np.float32)
    codebook = Codebook(sample[:words])
    for _ in range(KMEANS_ITERATIONS):
        nearest = codebook.assign(sample, 1, threads=available_cores())[:, 0]
        codebook = Codebook(_means(sample, nearest, words))
    return codebook


def _means(sample: NDArray[np.float32], nearest: NDArray[np.int64], words: int) -> NDArray[np.float32]:
    """The mean of every word's descriptors, float32 [words, D]; an empty word takes half of the fullest one."""
    counts = np.bincount(nearest, minlength=words)
    sums = np.zeros((words, sample.shape[1]))
    for start in range(0, len(sample), SUM_BATCH):
        block = nearest[start : start + SUM_BATCH]
        order = np.argsort(block, kind="stable")
        distinct, starts = np.unique(block[order], return_index=True)
        rows = sample[start : start + SUM_BATCH][order]
        sums[distinct] += np.add.reduceat(rows, starts, axis=0, dtype=np.float64)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    for empty in np.flatnonzero(counts == 0).tolist():
        fullest = int(counts.argmax())
        means[empty] = means[fullest] * (1 + NUDGE)
        means[fullest] *= 1 - NUDGE
        counts[empty] = counts[fullest] // 2
        counts[fullest] -= counts[empty]
    return means
