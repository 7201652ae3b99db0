"""The inverted file: for every visual word, the images that have it and their codes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.codes import CODE_BITS, AsmkCodes, AsmkQuery, code_length
from runtime.errors import IncompatibleError
from runtime.first_stage import ASMK, MAX_IMAGES, Layout, MapFile, ascends, shape_fault
from runtime.lazy import lazy_property

GEOMETRY = "geometry.npy"
CHECK_BATCH = 1 << 20  # entries that are checked at a time, to save memory


@dataclass(frozen=True)
class InvertedFile:
    """Up to 65,536 images in compressed sparse rows by word. What has a row for each entry may be a memory map.

    ``scores``, ``best`` and ``images_at`` raise OSError if a file of theirs was truncated since, or its disk failed.

    Attributes:
        words: uint32 [w], the words present, ascending.
        offsets: int64 [w + 1]; the entries of ``words[i]`` are ``offsets[i]:offsets[i + 1]``.
        images: uint16 [e], the image of every entry; ascending within a word.
        codes: uint64 [e, ⌈D/64⌉], the code of every entry.
        word_counts: uint32 [n], the number of distinct words of every image.
        geometry: uint32 [e], where every entry lies in its image (``runtime.asmk.geometry``); None if that is not kept.
    """

    LARGE_FILES: ClassVar[tuple[str, ...]] = ("images.npy", "codes.npy", "geometry.npy")
    SMALL_FILES: ClassVar[Mapping[str, npt.DTypeLike]] = {
        "words.npy": np.uint32,
        "offsets.npy": np.int64,
        "word_counts.npy": np.uint32,
    }

    words: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    images: NDArray[np.uint16]
    codes: NDArray[np.uint64]
    word_counts: NDArray[np.uint32]
    geometry: NDArray[np.uint32] | None = None

    @classmethod
    def large_files(cls, layout: Layout) -> tuple[str, ...]:
        """The geometry is optional: ``Store.large_files``."""
        return tuple(name for name in cls.LARGE_FILES if layout.geometry or name != GEOMETRY)

    @classmethod
    def build(cls, images: Sequence[AsmkCodes], layout: Layout) -> "InvertedFile":
        """The inverted file of at most 65,536 images. Raises IncompatibleError if one lacks what the layout keeps."""
        length = code_length(layout.dimensions)
        if len(images) > MAX_IMAGES:
            raise ValueError(f"{len(images)} images: an inverted file holds {MAX_IMAGES} at most")
        word_counts = np.array([len(image.words) for image in images], np.uint32)
        words = np.concatenate([image.words for image in images] or [np.empty(0, np.uint32)])
        codes = np.concatenate([image.codes for image in images] or [np.empty((0, length), np.uint64)])
        counts = np.bincount(words, minlength=1)
        geometry = _geometry_of(images) if layout.geometry else None
        empty = _empty(counts, length, word_counts, layout.geometry)
        native.place(words, codes, geometry, word_counts, _cursors(counts), empty.images, empty.codes, empty.geometry)
        return empty

    @classmethod
    def merge(cls, parts: Sequence["InvertedFile"], kept: Sequence[NDArray[np.bool_]]) -> "InvertedFile":
        """One inverted file of the kept images of several, in their order.

        Args:
            parts: at least one, with at most 65,536 kept images in all, and codes of one length.
            kept: bool [n] for each part, the images to keep.
        """
        if sum(int(keep.sum()) for keep in kept) > MAX_IMAGES:
            raise ValueError(f"an inverted file holds {MAX_IMAGES} images at most")
        numbers = _new_numbers(kept)
        counts = np.zeros(max((int(part.words[-1]) + 1 for part in parts if len(part.words)), default=1), np.int64)
        for part, number in zip(parts, numbers, strict=True):
            counts[part.words] += native.count_kept(part.offsets, part.images, number)
        word_counts = [part.word_counts[keep] for part, keep in zip(parts, kept, strict=True)]
        has_geometry = parts[0].geometry is not None
        empty = _empty(counts, parts[0].codes.shape[1], np.concatenate(word_counts), has_geometry)
        cursors = _cursors(counts)
        for part, number in zip(parts, numbers, strict=True):
            of_part = cursors[part.words]
            native.place_kept(
                *(part.offsets, part.images, part.codes, part.geometry, number, of_part),
                *(empty.images, empty.codes, empty.geometry),
            )
            cursors[part.words] = of_part
        return empty

    @classmethod
    def open(cls, small: Mapping[str, NDArray], map_file: MapFile, entries: int, layout: Layout) -> "InvertedFile":
        """Opens an inverted file on the disk: ``Store.open``."""
        words, offsets = small["words.npy"], small["offsets.npy"]
        # Searching and merging rely on both.
        if not ascends(words):
            raise ValueError("words.npy: the words do not ascend")
        if len(offsets) != len(words) + 1 or offsets[0] != 0 or not ascends(offsets) or offsets[-1] != entries:
            raise ValueError(f"offsets.npy: the offsets do not ascend from 0 to {entries} entries, one for each word")
        return cls(
            words=words,
            offsets=offsets,
            images=map_file("images.npy", np.uint16, (entries,)),
            codes=map_file("codes.npy", np.uint64, (entries, code_length(layout.dimensions))),
            word_counts=small["word_counts.npy"],
            geometry=map_file(GEOMETRY, np.uint32, (entries,)) if layout.geometry else None,
        )

    def arrays(self) -> dict[str, NDArray]:
        """What is written to the disk, by file name."""
        arrays: dict[str, NDArray] = {
            "images.npy": self.images,
            "codes.npy": self.codes,
            "words.npy": self.words,
            "offsets.npy": self.offsets,
            "word_counts.npy": self.word_counts,
        }
        return arrays if self.geometry is None else arrays | {GEOMETRY: self.geometry}

    @property
    def entries(self) -> int:
        """The number of entries: an image has one for each of its words."""
        return len(self.images)

    def __len__(self) -> int:
        return len(self.word_counts)

    def scores(self, query: AsmkQuery) -> NDArray[np.float64]:
        """ASMK scores of every image: Σ over shared words of s^α, over √(n_query · n_image).

        Returns:
            float64 [n]; 0 for an image without words.
        """
        norms = np.sqrt(float(len(query.words)) * self.word_counts)
        totals = self._totals(query) * native.UNIT
        return np.divide(totals, norms, out=np.zeros(len(self)), where=norms > 0)

    def best(
        self, query: AsmkQuery, live: NDArray[np.bool_], top: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The live images with the largest scores, at most ``top`` and only above 0, best first.

        Of equal scores the earlier image comes first.

        Returns:
            their numbers, int64 [h], and scores, float64 [h].
        """
        totals = self._totals(query)
        hits = native.best(totals, live, self.word_counts, self._inverse_norms, len(query.words), top)
        return hits["image"], hits["score"]

    def _totals(self, query: AsmkQuery) -> NDArray[np.int64]:
        """Σ of s^α in units of 2⁻⁴⁰, int64 [n].

        The sum of integers does not depend on the order of its terms: threads, parts of an index and GPUs agree to the
        bit. At D = 128 and α = 3, s^α is a multiple of 2⁻¹⁸, and the sum is exact.
        """
        arrays = self.words, self.offsets, self.images, self.codes
        return native.score(*arrays, query.words, query.codes, self._weights(query), len(self))

    def _weights(self, query: AsmkQuery) -> NDArray[np.int64]:
        """The similarity table in units of 2⁻⁴⁰, for every distance of codes: int64 [64·L + 1]."""
        table = query.similarity_table
        weights = np.zeros(CODE_BITS * self.codes.shape[1] + 1, np.int64)
        weights[: len(table)] = np.rint(table / native.UNIT)
        return weights

    def correspond(
        self, query: AsmkQuery, candidates: NDArray[np.int32], counts: NDArray[np.int32], found: NDArray[np.void]
    ) -> None:
        """Appends the words that a query and some images share to ``found``: ``native.correspond``.

        Args:
            query: of this file's codes.
            candidates: int32 [65536], by image: its number among the candidates, or −1.
            counts: int32 [c], of each candidate's correspondences; advanced.
            found: native.CORRESPONDENCE [c, at least the query's words], filled.

        Raises:
            IncompatibleError: the file has no geometry.
            OSError: a file of its was truncated since, or its disk failed.
        """
        if self.geometry is None:
            raise IncompatibleError("the index does not keep where its features lie; index the photos again")
        arrays = self.words, self.offsets, self.images, self.codes, self.geometry
        native.correspond(*arrays, query.words, query.codes, self._weights(query), candidates, counts, found)

    def images_at(self, rows: NDArray[np.int64]) -> list[AsmkCodes]:
        """The words and codes of some images, each once: ``Store.images_at``.

        There is no list of an image's words: all entries are passed once, of which only the images are read.

        Args:
            rows: int64 [k].
        """
        numbers = np.full(MAX_IMAGES, -1, np.int32)
        numbers[rows] = np.arange(len(rows))
        counts = self.word_counts[rows].astype(np.int64)
        words, codes, found = native.take(self.words, self.offsets, self.images, self.codes, numbers, counts)
        starts = np.cumsum(counts) - counts
        spans = [slice(start, start + n) for start, n in zip(starts.tolist(), found.tolist(), strict=True)]
        return [AsmkCodes(words[span], codes[span]) for span in spans]

    @classmethod
    def similarities(cls, images: Sequence[AsmkCodes], query: AsmkQuery) -> NDArray[np.float64]:
        """ASMK's scores of images with each other, each as a query with one word a descriptor: ``Store.similarities``.

        Returns:
            float64 [n, n], exactly symmetric; 1 on the diagonal, 0 for an image without words.
        """
        file = cls.build(images, Layout(ASMK, len(query.similarity_table) - 1))
        totals = native.compare(file.offsets, file.images, file.codes, file._weights(query), len(file))
        norms = np.sqrt(np.multiply.outer(file.word_counts, file.word_counts, dtype=np.float64))
        return np.divide(totals * native.UNIT, norms, out=np.zeros(norms.shape), where=norms > 0)

    def shape_faults(self, images: int) -> Iterator[tuple[str, str]]:
        """Arrays that do not fit each other: ``Store.shape_faults``."""
        yield from shape_fault("words.npy", self.words, np.uint32, (len(self.offsets) - 1,))
        yield from shape_fault("offsets.npy", self.offsets, np.int64, (len(self.words) + 1,))
        yield from shape_fault("word_counts.npy", self.word_counts, np.uint32, (images,))

    def content_faults(self, dimensions: int) -> Iterator[tuple[str, str]]:
        """What is wrong with words, entries and codes: ``Store.content_faults``."""
        if not ascends(self.words):
            yield "words.npy", "the words do not ascend"
        if self.offsets[0] != 0 or not ascends(self.offsets) or self.offsets[-1] != len(self.images):
            yield "offsets.npy", "the offsets do not ascend from 0 to the number of entries"
            return
        counts = np.zeros(MAX_IMAGES, np.int64)
        begins = np.zeros(len(self.images) + 1, bool)  # the entries that are the first of a word
        begins[self.offsets] = True
        ascending = True
        for start in range(0, len(self.images), CHECK_BATCH):
            some = self.images[start : start + CHECK_BATCH + 1]  # one more, to compare with
            counts += np.bincount(some[:CHECK_BATCH], minlength=MAX_IMAGES)
            ascending &= bool(np.all((some[1:] > some[:-1]) | begins[start + 1 : start + len(some)]))
        if not ascending:
            yield "images.npy", "the images of a word do not ascend"
        if np.any(counts[len(self) :]):
            yield "images.npy", f"it names images beyond the {len(self)} of the segment"
        if np.any(counts[: len(self)] != self.word_counts):
            yield "word_counts.npy", "the counts are not those of the entries"
        if _has_padding(self.codes, dimensions):
            yield "codes.npy", f"bits beyond the {dimensions} of a code are set"

    @lazy_property
    def _inverse_norms(self) -> NDArray[np.float64]:
        roots = np.sqrt(self.word_counts, dtype=np.float64)
        return np.divide(1, roots, out=np.zeros(len(self)), where=roots > 0)


def _geometry_of(images: Sequence[AsmkCodes]) -> NDArray[np.uint32]:
    parts = [image.geometry for image in images if image.geometry is not None]
    if len(parts) != len(images):
        raise IncompatibleError("an image does not say where its features lie, and the index keeps that")
    return np.concatenate([np.empty(0, np.uint32), *parts])


def _empty(
    counts: NDArray[np.int64], code_length: int, word_counts: NDArray[np.uint32], has_geometry: bool
) -> InvertedFile:
    """An inverted file with room for as many entries of each word as ``counts`` [above the largest word] says."""
    words = np.flatnonzero(counts)
    entries = int(counts.sum())
    return InvertedFile(
        words=words.astype(np.uint32),
        offsets=np.append(0, np.cumsum(counts[words])).astype(np.int64),
        images=np.empty(entries, np.uint16),
        codes=np.empty((entries, code_length), np.uint64),
        word_counts=word_counts,
        geometry=np.empty(entries, np.uint32) if has_geometry else None,
    )


def _cursors(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the first entry of every word goes."""
    return np.cumsum(counts) - counts


def _new_numbers(kept: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.int32]]:
    """For each part int32 [65536]: the new number of each of its images, −1 for those that are not kept."""
    numbers, first = [], 0
    for keep in kept:
        number = np.full(MAX_IMAGES, -1, np.int32)
        number[: len(keep)][keep] = np.arange(first, first + int(keep.sum()))
        numbers.append(number)
        first += int(keep.sum())
    return numbers


def _has_padding(codes: NDArray[np.uint64], dimensions: int) -> bool:
    """Whether a code has bits set beyond its D."""
    if dimensions % CODE_BITS == 0:
        return False
    beyond = np.uint64(dimensions % CODE_BITS)
    return any(np.any(codes[start : start + CHECK_BATCH, -1] >> beyond) for start in range(0, len(codes), CHECK_BATCH))
