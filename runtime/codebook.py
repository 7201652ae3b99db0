"""The codebook: visual words, learned by k-means, and the assignment of descriptors to them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import HowlError
from runtime.files import replacing

ROWS_AT_ONCE = 1024  # descriptors whose distances to all words are held in memory together
GROUPS = 1024  # of words, for the top-k of a long row
KMEANS_ITERATIONS = 10  # its objective hardly falls after
KMEANS_SAMPLE = 64  # descriptors a word that it looks at, at most
DESCRIPTORS_PER_WORD = 32  # the fewest that make a word worth having


class Codebook:
    """C visual words in D dimensions."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        """``centroids``: float32 [C, D]."""
        self.centroids = np.ascontiguousarray(centroids, np.float32)
        self._half_squared_norms = 0.5 * np.square(self.centroids).sum(axis=1)

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def dimensions(self) -> int:
        """D, of a descriptor."""
        return self.centroids.shape[1]

    def assign(self, descriptors: NDArray[np.float32], assignments: int) -> NDArray[np.int64]:
        """The nearest words (L2) of every descriptor, nearest first, exactly.

        Args:
            descriptors: float32 [n, D].
            assignments: m, words a descriptor (multiple assignment); no more than there are words are given.

        Returns:
            int64 [n, min(m, C)].

        Raises:
            HowlError: the descriptors have another dimension.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.dimensions:
            raise HowlError(f"descriptors {descriptors.shape} do not fit a codebook of {self.dimensions} dimensions")
        m = min(assignments, len(self))
        parts = [
            self._assign_block(descriptors[start : start + ROWS_AT_ONCE], m)
            for start in range(0, len(descriptors), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, m), np.int64)

    def _assign_block(self, descriptors: NDArray[np.float32], m: int) -> NDArray[np.int64]:
        # ‖x − c‖² orders words as ½‖c‖² − x·c does.
        distances = descriptors @ self.centroids.T
        np.subtract(self._half_squared_norms, distances, out=distances)
        return smallest_in_rows(distances, m)

    def save(self, path: Path) -> None:
        """Writes the centroids as a plain .npy file."""
        with replacing(path) as file:
            np.save(file, self.centroids)

    @classmethod
    def load(cls, path: Path) -> "Codebook":
        """Reads what ``save`` wrote. Raises HowlError where the file is missing or no codebook."""
        try:
            with path.open("rb") as file:
                centroids = np.lib.format.read_array(file, allow_pickle=False)
        except FileNotFoundError:
            raise HowlError(f"{path}: the codebook is missing; export the checkpoint again") from None
        except (ValueError, OSError):
            raise HowlError(f"{path}: not a codebook (.npy); export the checkpoint again") from None
        if centroids.ndim != 2 or centroids.dtype != np.float32:
            raise HowlError(f"{path}: a codebook is float32 [words, dimensions], this is {centroids.shape}")
        return cls(centroids)


def smallest_in_rows(values: NDArray[np.float32], m: int) -> NDArray[np.int64]:
    """The columns of the m smallest values of each row [n, C], smallest first: int64 [n, m].

    The m smallest lie in the at most m groups of columns whose minima are smallest, so long rows need one pass of
    minima and a partition of GROUPS values, not of C.
    """
    n, columns = values.shape
    if columns % GROUPS or columns <= 2 * GROUPS or m > GROUPS:
        candidates = np.argpartition(values, m - 1, axis=1)[:, :m] if m < columns else None
    else:
        minima = values.reshape(n, columns // GROUPS, GROUPS).min(axis=1)
        groups = np.argpartition(minima, m - 1, axis=1)[:, :m]
        members = np.arange(0, columns, GROUPS)
        candidates = (groups[:, :, None] + members).reshape(n, -1)
    if candidates is None:
        return np.argsort(values, axis=1, kind="stable")
    order = np.argsort(np.take_along_axis(values, candidates, axis=1), axis=1, kind="stable")[:, :m]
    return np.take_along_axis(candidates, order, axis=1).astype(np.int64)


def learn_codebook(descriptors: NDArray[np.float32], words: int, *, seed: int) -> Codebook:
    """k-means over descriptors [n, D] (faiss).

    ``words`` is an upper bound: with fewer than 32 descriptors a word, the codebook is the largest power of two that
    has them.

    Raises:
        HowlError: there is no descriptor at all.
    """
    import faiss  # only training learns codebooks: searching does without

    if len(descriptors) == 0:
        raise HowlError("no descriptors to learn a codebook from: are there readable photos?")
    affordable = max(1, len(descriptors) // DESCRIPTORS_PER_WORD)
    words = min(words, 2 ** (affordable.bit_length() - 1))
    kmeans = faiss.Kmeans(
        descriptors.shape[1], words, niter=KMEANS_ITERATIONS, seed=seed, max_points_per_centroid=KMEANS_SAMPLE
    )
    kmeans.cp.min_points_per_centroid = 1  # DESCRIPTORS_PER_WORD has seen to it
    kmeans.train(np.ascontiguousarray(descriptors, np.float32))
    return Codebook(np.asarray(kmeans.centroids, np.float32))
