"""The inverted file: for every visual word, the images that have it and their codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.kernel import CODE_BITS, AsmkCodes

MAX_IMAGES = native.IMAGES  # images: ids within a file are uint16, which keeps an entry at 18 bytes (D = 128)


@dataclass(frozen=True)
class InvertedFile:
    """Up to 65,536 images in compressed sparse rows by word. The arrays may be memory maps.

    Attributes:
        words: uint32 [w], the words present, ascending.
        offsets: int64 [w + 1]; the entries of ``words[i]`` are ``offsets[i]:offsets[i + 1]``.
        images: uint16 [e], the image of every entry; ascending within a word.
        codes: uint64 [e, ⌈D/64⌉], the code of every entry.
        word_counts: uint32 [n], the number of distinct words of every image.
    """

    words: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    images: NDArray[np.uint16]
    codes: NDArray[np.uint64]
    word_counts: NDArray[np.uint32]

    @classmethod
    def build(cls, images: Sequence[AsmkCodes], code_length: int) -> "InvertedFile":
        """The inverted file of at most 65,536 images; ``code_length`` is ⌈D/64⌉."""
        if len(images) > MAX_IMAGES:
            raise ValueError(f"{len(images)} images: an inverted file holds {MAX_IMAGES} at most")
        word_counts = np.array([len(image.words) for image in images], np.uint32)
        words = np.concatenate([image.words for image in images] or [np.empty(0, np.uint32)])
        codes = np.concatenate([image.codes for image in images] or [np.empty((0, code_length), np.uint64)])
        counts = np.bincount(words, minlength=1)
        empty = _empty(counts, code_length, word_counts)
        native.place(words, codes, word_counts, _cursors(counts), empty.images, empty.codes)
        return empty

    @classmethod
    def merge(cls, parts: Sequence["InvertedFile"], kept: Sequence[NDArray[np.bool_]]) -> "InvertedFile":
        """One inverted file of the images of several, in their order, without those that are not kept.

        Args:
            parts: at least one, of at most 65,536 kept images in all; codes of one length.
            kept: bool [n] for every part, the images to take over.
        """
        if sum(int(keep.sum()) for keep in kept) > MAX_IMAGES:
            raise ValueError(f"an inverted file holds {MAX_IMAGES} images at most")
        numbers = _new_numbers(kept)
        counts = np.zeros(max((int(part.words[-1]) + 1 for part in parts if len(part.words)), default=1), np.int64)
        for part, number in zip(parts, numbers, strict=True):
            counts[part.words] += native.count_kept(part.offsets, part.images, number)
        word_counts = [part.word_counts[keep] for part, keep in zip(parts, kept, strict=True)]
        empty = _empty(counts, parts[0].codes.shape[1], np.concatenate(word_counts))
        cursors = _cursors(counts)
        for part, number in zip(parts, numbers, strict=True):
            of_part = cursors[part.words]
            native.place_kept(part.offsets, part.images, part.codes, number, of_part, empty.images, empty.codes)
            cursors[part.words] = of_part
        return empty

    def __len__(self) -> int:
        return len(self.word_counts)

    def scores(self, query: AsmkCodes, worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """ASMK scores of every image: Σ over shared words of s^α, over √(n_query · n_image).

        Args:
            query: the query, aggregated over all its assigned words.
            worth: float64 [D + 1], ``selectivity``.

        Returns:
            float64 [n]; 0 for an image without words.
        """
        norms = np.sqrt(float(len(query.words)) * self.word_counts)
        totals = self._totals(query, worth) * native.UNIT
        return np.divide(totals, norms, out=np.zeros(len(self)), where=norms > 0)

    def best(
        self, query: AsmkCodes, worth: NDArray[np.float64], live: NDArray[np.bool_], top: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The live images with the largest of those scores, at most ``top`` and only above 0, best first.

        Of equal scores the earlier image comes first.

        Returns:
            their numbers, int64 [h], and scores, float64 [h].
        """
        totals = self._totals(query, worth)
        hits = native.best(totals, live, self.word_counts, self._inverse_norms, len(query.words), top)
        return hits["image"], hits["score"]

    def _totals(self, query: AsmkCodes, worth: NDArray[np.float64]) -> NDArray[np.int64]:
        """Σ of s^α in units of 2⁻⁴⁰, int64 [n].

        Integers, because their sum does not depend on the order of its terms: threads, parts of an index and GPUs agree
        to the bit. At D = 128 and α = 3, s^α is a multiple of 2⁻¹⁸, and the sum is exact.
        """
        fixed = np.zeros(CODE_BITS * self.codes.shape[1] + 1, np.int64)
        fixed[: len(worth)] = np.rint(worth / native.UNIT)
        arrays = self.words, self.offsets, self.images, self.codes
        return native.score(*arrays, query.words, query.codes, fixed, len(self))

    @cached_property
    def _inverse_norms(self) -> NDArray[np.float64]:
        roots = np.sqrt(self.word_counts, dtype=np.float64)
        return np.divide(1, roots, out=np.zeros(len(self)), where=roots > 0)


def _empty(counts: NDArray[np.int64], code_length: int, word_counts: NDArray[np.uint32]) -> InvertedFile:
    """An inverted file with room for as many entries of each word as ``counts`` [above the largest word] says."""
    words = np.flatnonzero(counts)
    entries = int(counts.sum())
    return InvertedFile(
        words=words.astype(np.uint32),
        offsets=np.append(0, np.cumsum(counts[words])).astype(np.int64),
        images=np.empty(entries, np.uint16),
        codes=np.empty((entries, code_length), np.uint64),
        word_counts=word_counts,
    )


def _cursors(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the first entry of every word goes."""
    return np.cumsum(counts) - counts


def _new_numbers(kept: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.int32]]:
    """For every part int32 [65536]: the number of each of its images in the whole, −1 for those that are not kept."""
    numbers, first = [], 0
    for keep in kept:
        number = np.full(MAX_IMAGES, -1, np.int32)
        number[: len(keep)][keep] = np.arange(first, first + int(keep.sum()))
        numbers.append(number)
        first += int(keep.sum())
    return numbers
