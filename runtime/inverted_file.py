"""The inverted file: for every visual word, the images that have it and their codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.asmk import Aggregated, hamming

LARGEST = 65_536  # images: ids within a file are uint16, which keeps an entry at 18 bytes (D = 128)


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
    def build(cls, images: Sequence[Aggregated], code_length: int) -> "InvertedFile":
        """The inverted file of at most 65,536 images; ``code_length`` is ⌈D/64⌉."""
        if len(images) > LARGEST:
            raise ValueError(f"{len(images)} images: an inverted file holds {LARGEST} at most")
        counts = np.array([len(image.words) for image in images], np.uint32)
        all_words = np.concatenate([image.words for image in images] or [np.empty(0, np.uint32)])
        all_codes = np.concatenate([image.codes for image in images] or [np.empty((0, code_length), np.uint64)])
        order = np.argsort(all_words, kind="stable")
        words, starts = np.unique(all_words[order], return_index=True)
        return cls(
            words=words,
            offsets=np.append(starts, len(all_words)).astype(np.int64),
            images=np.repeat(np.arange(len(images), dtype=np.uint16), counts)[order],
            codes=all_codes[order],
            word_counts=counts,
        )

    @classmethod
    def merge(cls, parts: Sequence["InvertedFile"], kept: Sequence[NDArray[np.bool_]]) -> "InvertedFile":
        """One inverted file of the images of several, in their order, without those that are not kept.

        Args:
            parts: at most 65,536 kept images in all; codes of one length.
            kept: bool [n] for every part, the images to take over.
        """
        if sum(int(keep.sum()) for keep in kept) > LARGEST:
            raise ValueError(f"an inverted file holds {LARGEST} images at most")
        words, images, codes, first = [], [], [], 0
        for part, keep in zip(parts, kept, strict=True):
            taken = keep[part.images]
            words.append(np.repeat(part.words, np.diff(part.offsets))[taken])
            images.append((first + np.cumsum(keep) - 1)[part.images[taken]].astype(np.uint16))
            codes.append(part.codes[taken])
            first += int(keep.sum())
        order = np.argsort(np.concatenate(words), kind="stable")
        distinct, lengths = np.unique(np.concatenate(words), return_counts=True)
        return cls(
            words=distinct,
            offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
            images=np.concatenate(images)[order],
            codes=np.concatenate(codes)[order],
            word_counts=np.concatenate([part.word_counts[keep] for part, keep in zip(parts, kept, strict=True)]),
        )

    def __len__(self) -> int:
        return len(self.word_counts)

    def scores(self, query: Aggregated, worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """ASMK scores of every image: Σ over shared words of s^α, over √n_query · √n_image.

        Args:
            query: the query, aggregated over all its assigned words.
            worth: float64 [D + 1], ``selectivity``.

        Returns:
            float64 [n]; 0 for an image without words.
        """
        entries, of_query = self._shared_entries(query.words)
        matches = worth[hamming(self.codes[entries], query.codes[of_query])]
        totals = np.bincount(self.images[entries], weights=matches, minlength=len(self))
        norms = np.sqrt(float(len(query.words)) * self.word_counts)
        return np.divide(totals, norms, out=np.zeros(len(self)), where=norms > 0)

    def _shared_entries(self, words: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The entries of the query's words, and for each the row of the query that it belongs to."""
        if len(self.words) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows = np.minimum(np.searchsorted(self.words, words), len(self.words) - 1)
        shared = np.flatnonzero(self.words[rows] == words)
        starts = self.offsets[rows[shared]]
        lengths = self.offsets[rows[shared] + 1] - starts
        first = np.cumsum(lengths) - lengths
        entries = np.arange(lengths.sum()) + np.repeat(starts - first, lengths)
        return entries, np.repeat(shared, lengths)
