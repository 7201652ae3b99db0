"""asmk's codebook and kernel: descriptors become visual words, and binary codes that are compared."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import code_length
from runtime.asmk.kernel import AsmkParameters, aggregate, selectivity
from runtime.asmk_method.ivf import image_ids_of
from runtime.errors import UsageError


class AsmkCodebook(Codebook):
    """A codebook with asmk's name for ``assign``."""

    @property
    def size(self) -> int:
        """The number of words."""
        return len(self)

    def quantize(self, des: ArrayLike, *cols: Any, multiple_assignment: int) -> tuple[Any, ...]:
        """Descriptors [n, D] and their columns → descriptors, words int64 [n, m], the columns."""
        descriptors = descriptors_of(des, self.dimensions)
        return descriptors, self.assign(descriptors, multiple_assignment), *cols


class ASMKKernel:
    """Turns descriptors and their words into codes."""

    def __init__(self, codebook: Codebook, *, binary: bool | str) -> None:
        if binary not in (True, "bin"):
            raise UsageError(f"build_ivf.kernel.binary is {binary!r}: howl compares binary codes only; set it to True")
        self.codebook = codebook

    def aggregate_image(self, des: ArrayLike, word_ids: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Aggregates a single image.

        Args:
            des: float [n, D].
            word_ids: integer [n, m], the words of each descriptor.

        Returns:
            entry by entry, in the order of words: codes uint64 [e, ⌈D/64⌉], words uint32 [e].
        """
        descriptors = descriptors_of(des, self.codebook.dimensions)
        words, codes, _ = aggregate(descriptors, self._words(word_ids, len(descriptors)), self.codebook.centroids)
        return codes, words

    def aggregate(
        self, des: ArrayLike, word_ids: ArrayLike, image_ids: ArrayLike, *, progress: int | None = None
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.integer]]:
        """Aggregates image by image.

        Args:
            des: float [n, D].
            word_ids: integer [n, m], the words of each descriptor.
            image_ids: integer [n], the image of each descriptor, in any order.
            progress: anything true shows a progress bar.

        Returns:
            entry by entry, in the order of images and words: codes uint64 [e, L], words uint32 [e], image ids [e].
        """
        descriptors = descriptors_of(des, self.codebook.dimensions)
        words = self._words(word_ids, len(descriptors))
        ids = image_ids_of(image_ids, len(descriptors))
        images, codes, all_words = [], [], []
        for image, rows in tqdm(list(by_image(ids)), desc="aggregating", unit="image", disable=not progress):
            aggregated = aggregate(descriptors[rows], words[rows], self.codebook.centroids)
            images.append(np.full(len(aggregated.words), image))
            codes.append(aggregated.codes)
            all_words.append(aggregated.words)
        none = np.empty((0, code_length(self.codebook.dimensions)), np.uint64)
        return np.concatenate(codes or [none]), _joined(all_words, np.uint32), _joined(images, ids.dtype)

    def similarity(
        self,
        qvec: NDArray[np.uint64],
        vecs: NDArray[np.uint64],
        image_ids: NDArray[np.integer],
        *,
        alpha: float,
        similarity_threshold: float,
    ) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
        """Compares a code with those of some images, for ``Ivf.search``.

        Args:
            qvec: uint64 [⌈D/64⌉].
            vecs: uint64 [n, ⌈D/64⌉].
            image_ids: integer [n], the image of each.
            alpha: the exponent of selectivity.
            similarity_threshold: τ, the least similarity that counts.

        Returns:
            the ids [m] of the images that reach τ, and s^α, float64 [m].
        """
        dimensions = self.codebook.dimensions
        table = _selectivity(dimensions, AsmkParameters(alpha, similarity_threshold))
        distances = np.bitwise_count(vecs ^ qvec).sum(axis=1)
        reached = 1 - 2 * distances / dimensions >= similarity_threshold
        return image_ids[reached], table[distances[reached]]

    def _words(self, word_ids: ArrayLike, descriptors: int) -> NDArray[np.integer]:
        """Words [n, m] as the caller has assigned them. Raises UsageError if they do not fit."""
        words = np.asarray(word_ids)
        if words.dtype.kind not in "iu" or words.ndim != 2 or len(words) != descriptors:
            raise UsageError(
                f"word ids are whole numbers [{descriptors}, m] for {descriptors} descriptors, "
                f"not {words.dtype} {words.shape}"
            )
        for wrong in words[(words < 0) | (words >= len(self.codebook))][:1]:
            raise UsageError(
                f"word id {wrong}: the codebook has {len(self.codebook)} words; quantize with this codebook"
            )
        return words


_selectivity = lru_cache(selectivity)  # a query asks for the same table at every word


def by_image(ids: NDArray[np.integer]) -> Iterator[tuple[np.integer, NDArray[np.intp]]]:
    """The distinct ids, ascending, each with its rows in their order."""
    order = np.argsort(ids, kind="stable")
    distinct, starts = np.unique(ids[order], return_index=True)
    for image, start, end in zip(distinct, starts, [*starts[1:], len(ids)], strict=False):
        yield image, order[start:end]


def descriptors_of(vecs: ArrayLike, dimensions: int) -> NDArray[np.float32]:
    """Descriptors as contiguous float32 [n, D]; an empty array of any shape becomes [0, D].

    Raises:
        UsageError: they are no real numbers, or one of them is not finite.
    """
    descriptors = finite(vecs)
    return descriptors if descriptors.size else np.empty((0, dimensions), np.float32)


def finite(vecs: ArrayLike) -> NDArray[np.float32]:
    """Descriptors as contiguous float32. Raises UsageError, naming the row, if they are not finite, or no numbers."""
    given = np.asarray(vecs)
    if given.size and given.dtype.kind not in "fiu":
        raise UsageError(f"descriptors are arrays of real numbers, not of {given.dtype}")
    descriptors = np.ascontiguousarray(given, np.float32)
    is_finite = np.isfinite(descriptors)
    if not is_finite.all():
        wrong = int(np.argwhere(~is_finite)[0, 0])
        raise UsageError(f"descriptor {wrong} of {len(descriptors)} is not finite")
    return descriptors


def _joined(parts: list[NDArray], dtype: DTypeLike) -> NDArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
