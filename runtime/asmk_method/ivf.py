"""asmk's inverted file (IVF) on top of ours: numbered images, in memory, and on disk as an index."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import native
from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery, code_length
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk_method.importing import NUMBERS, check_words, id_of, inverted_files, new_index, number_of, open_index
from runtime.asmk_method.pickles import load_asmk_ivf, split_images
from runtime.errors import DuplicateIdError, IncompatibleError, UsageError
from runtime.first_stage import ASMK, MAX_IMAGES, Layout
from runtime.index import Index

MAX_GAPS = 65_536  # numbers without an image that are ranked all the same

# A code [L] of the query, codes [n, L] of images and their numbers [n] → numbers [m] of those that match, and how well
SimilarityFunction = Callable[
    [NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.float64]]
]


class _Part(NamedTuple):
    """Some images of an IVF: their numbers int64 [n], ~j for distractor j, and their entries."""

    numbers: NDArray[np.int64]
    file: InvertedFile


class _Lists(NamedTuple):
    """What a part has of each word of a query.

    Attributes:
        ranks: int64 [n], the numbers of the part's images as they are ranked.
        file: the part's entries.
        bounds: [w], where the entries of each word begin and end.
    """

    ranks: NDArray[np.int64]
    file: InvertedFile
    bounds: list[tuple[int, int]]

    def has(self, row: int) -> bool:
        """Whether there are entries of the query's word ``row``."""
        begin, end = self.bounds[row]
        return begin < end

    def entries(self, row: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The codes [e, L] of that word, and the numbers [e] of their images."""
        entries = slice(*self.bounds[row])
        return self.file.codes[entries], self.ranks[self.file.images[entries]]


class Ivf:
    """The entries of numbered images.

    As in asmk, every number up to the largest is ranked, without an image with score 0. Where more than ``MAX_GAPS``
    have none, only those with an image are: memory and time depend on the images, not on their numbers.

    Attributes:
        distractors: how many there are, in addition to the images.
    """

    def __init__(self, codebook: Codebook) -> None:
        self.distractors = 0
        self._codebook = codebook
        self._saved: list[_Part] = []
        self._unsaved: list[_Part] = []
        self._known: set[int] = set()
        self._largest = -1
        self._ranked: NDArray[np.int64] | None = None

    @classmethod
    def load(cls, path: Path, codebook: Codebook) -> "Ivf":
        """Loads what this class or asmk saved. Raises HowlError if it is neither, or has another codebook."""
        ivf = cls(codebook)
        for part in _parts_of_index(path, codebook) if path.is_dir() else _parts_of_pickle(path, codebook):
            ivf._count(part.numbers)
            ivf._saved.append(part)
        return ivf

    @classmethod
    def of_distractors(cls, path: Path, codebook: Codebook) -> "Ivf":
        """An IVF of distractors only: all images of a saved one. Raises HowlError as ``load`` does."""
        loaded, ivf = cls.load(path, codebook), cls(codebook)
        ivf.distractors = len(loaded)
        ivf._unsaved = [_Part(~loaded._columns(loaded._ranks(numbers)), file) for numbers, file in loaded._saved]
        return ivf

    def __len__(self) -> int:
        return len(self.ranked)

    @property
    def n_images(self) -> int:
        """How many numbers a search ranks if it is not limited, distractors included."""
        return len(self)

    @property
    def ranked(self) -> NDArray[np.int64]:
        """What a search ranks, int64 [n], ascending: the numbers of images; then those that follow, for distractors."""
        if self._ranked is None:
            every = np.sort(np.array(list(self._known), np.int64)) if self._is_sparse else np.arange(self._largest + 1)
            self._ranked = np.append(every, self._largest + np.arange(1, self.distractors + 1))
        return self._ranked

    def add(self, des: NDArray[np.uint64], word_ids: NDArray[np.integer], image_ids: NDArray[np.integer]) -> None:
        """Adds images by their entries, in any order, as ``ASMKKernel.aggregate`` gives them.

        Args:
            des: uint64 [e, ⌈D/64⌉], the codes.
            word_ids: integer [e].
            image_ids: integer [e].

        Raises:
            HowlError: an image was added before, or the entries are invalid; then none is added.
        """
        ids, words = image_ids_of(image_ids, len(des)), np.asarray(word_ids)
        if len(ids) == 0:
            return
        order = np.lexsort((words, ids))
        self._check_entries(des, words[order], ids[order])
        limit = NUMBERS - self.distractors  # whose numbers follow the largest
        for wrong in ids[(ids < 0) | (ids >= limit)][:1]:
            raise UsageError(f"image id {wrong}: ids number the images from 0 and stay below {limit}; renumber them")
        numbers, counts = np.unique(ids.astype(np.int64), return_counts=True)
        if known := self._known.intersection(numbers.tolist()):
            raise DuplicateIdError(
                f"image {min(known)} is in the inverted file already; add all its descriptors at once"
            )
        images = split_images(words[order].astype(np.uint32), des[order], counts)
        for start in range(0, len(numbers), MAX_IMAGES):
            part = slice(start, start + MAX_IMAGES)
            self._append(_Part(numbers[part], InvertedFile.build(images[part], _layout(self._codebook))))

    def scores(self, query: AsmkQuery) -> NDArray[np.float64]:
        """The scores of ``ranked``, float64 [n], as ``InvertedFile.scores``."""
        scores = np.zeros(len(self))
        for numbers, file in (*self._saved, *self._unsaved):
            scores[self._columns(self._ranks(numbers))] = file.scores(query)
        return scores

    def best(self, scores: NDArray[np.float64], topk: int | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ``topk`` numbers with the largest ``scores``, or all: best first, ties by number."""
        columns = _best(scores, len(scores) if topk is None else topk)
        return self.ranked[columns], scores[columns]

    def search(
        self,
        des: NDArray[np.uint64],
        word_ids: NDArray[np.integer],
        *,
        similarity_func: SimilarityFunction,
        topk: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ranks all images for one query, by any similarity. With the kernel's, the answer is that of ``query_ivf``.

        Args:
            des: uint64 [w, ⌈D/64⌉], the query's codes, as ``ASMKKernel.aggregate_image`` gives them.
            word_ids: integer [w].
            similarity_func: is called for each of these words and the images that have it.
            topk: how many images; None for all.

        Returns:
            ranks: int64 [r], the numbers of images, best first, ties by number. The distractors' follow the largest.
            scores: float64 [r], of ``ranks``.

        Raises:
            HowlError: the codes do not fit the codebook, or ``topk`` is no number of images.
        """
        best, words = topk_of(topk, "topk"), np.asarray(word_ids)
        self._check_entries(des, np.sort(words), np.zeros(len(words), np.int64))
        totals, norms = np.zeros(len(self)), np.zeros(len(self))
        parts = [self._lists(part, words) for part in (*self._saved, *self._unsaved)]
        for ranks, file, _ in parts:
            norms[self._columns(ranks)] = np.sqrt(float(len(words)) * file.word_counts)
        for row, code in enumerate(des):
            lists = [part.entries(row) for part in parts if part.has(row)]
            if lists:
                found, weights = similarity_func(code, *map(np.concatenate, zip(*lists, strict=True)))
                # In the units of InvertedFile.scores, so that both give the same sums.
                totals[self._columns(found)] += np.rint(weights / native.UNIT) * native.UNIT
        return self.best(np.divide(totals, norms, out=np.zeros(len(self)), where=norms > 0), best)

    def save(self, path: Path) -> None:
        """Updates the index at ``path`` in one commit, or makes it; a pickle there is kept as ``path.asmk``.

        Raises:
            HowlError: it cannot be written, or has other images under the same numbers; then it stays as it was.
        """
        if path.exists() and not self._unsaved:
            return
        if Index.exists(path):
            with closing(open_index(path, self._codebook)) as index:
                index.add(*_listed(self._unsaved))
        else:
            with new_index(path, self._codebook) as index:
                for part in (*self._saved, *self._unsaved):
                    index.add(*_listed([part]))
        self._saved, self._unsaved = [*self._saved, *self._unsaved], []

    @property
    def stats(self) -> dict[str, Any]:
        """Counts of images and of entries per visual word, under asmk's names; distractors count as images."""
        counts = np.zeros(len(self._codebook), np.int64)
        for _, file in (*self._saved, *self._unsaved):
            counts[file.words] += np.diff(file.offsets)
        entries = int(counts.sum())
        return {
            "images": len(self),
            "vectors_per_image": entries / max(1, len(self)),
            "mean_entries_per_vw": counts.mean(),
            "empty_vw": int((counts == 0).sum()),
            "min_entries_per_vw": counts.min(),
            "max_entries_per_vw": counts.max(),
            "std_of_entries_per_vw": counts.std(),
            "imbalance_factor_of_vw": len(counts) * float(np.square(counts).sum()) / max(1, entries) ** 2,
        }

    @property
    def _code_length(self) -> int:
        return code_length(self._codebook.dimensions)

    @property
    def _is_sparse(self) -> bool:
        return self._largest + 1 - len(self._known) > MAX_GAPS

    def _check_entries(self, codes: NDArray[np.uint64], words: NDArray[np.integer], ids: NDArray[np.integer]) -> None:
        """Refuses codes [e, L] of another kernel, and sorted words and ids [e] that name an entry twice."""
        fit = codes.dtype == np.uint64 and codes.shape == (len(words), self._code_length)
        known = 0 <= words.min(initial=0) <= words.max(initial=0) < len(self._codebook)
        if not (fit and known) or ((words[1:] == words[:-1]) & (ids[1:] == ids[:-1])).any():
            raise IncompatibleError("these are not entries of this codebook's kernel; aggregate the descriptors again")

    def _append(self, part: _Part) -> None:
        """Adds a part, and merges it with earlier ones that are not much larger, so that parts stay few."""
        self._count(part.numbers)
        while self._unsaved and len(self._unsaved[-1].numbers) < 2 * len(part.numbers):
            if len(self._unsaved[-1].numbers) + len(part.numbers) > MAX_IMAGES:
                break
            part = _merged(self._unsaved.pop(), part)
        self._unsaved.append(part)

    def _count(self, numbers: NDArray[np.int64]) -> None:
        self._known.update(numbers[numbers >= 0].tolist())
        self._largest = max(self._largest, int(numbers.max(initial=-1)))
        self.distractors = max(self.distractors, -int(numbers.min(initial=0)))
        self._ranked = None

    def _lists(self, part: _Part, words: NDArray[np.integer]) -> _Lists:
        """What a part has of each of some words [w]."""
        file = part.file
        begins, ends = (file.offsets[np.searchsorted(file.words, words, side)] for side in ("left", "right"))
        return _Lists(self._ranks(part.numbers), file, list(zip(begins.tolist(), ends.tolist(), strict=True)))

    def _ranks(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of images, and of distractors ~j, as they are ranked."""
        return np.where(numbers >= 0, numbers, self._largest - numbers)

    def _columns(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where such numbers stand in ``ranked``."""
        return np.searchsorted(self.ranked, ranks) if self._is_sparse else ranks


def topk_of(value: object, name: str) -> int | None:
    """How many images to return, or None for all. Raises HowlError, with the parameter's name, if it is neither."""
    if value is None:
        return None
    if not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{name} is {value!r}: it is a whole number of at least 1, or None for all")
    return int(value)


def image_ids_of(ids: ArrayLike, count: int) -> NDArray[np.integer]:
    """Image ids, one for each of ``count`` rows. Raises HowlError if they are fewer, more or not whole numbers."""
    found = np.asarray(ids)
    if found.size == 0:
        found = np.empty(0, np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise UsageError(f"image ids are whole numbers [n], not {found.dtype} {found.shape}")
    if len(found) != count:
        raise UsageError(f"{len(found)} image ids were given for {count} rows; each row needs one")
    return found


def _best(scores: NDArray[np.float64], top: int) -> NDArray[np.intp]:
    """The positions of the ``top`` largest scores, largest first, ties by position."""
    candidates = np.arange(len(scores))
    if 0 < top < len(scores):
        # All images that tie for the last place compete for it, and the earliest win.
        candidates = np.flatnonzero(scores >= np.partition(scores, len(scores) - top)[len(scores) - top])
    return candidates[np.argsort(-scores[candidates], kind="stable")][:top]


def _merged(first: _Part, second: _Part) -> _Part:
    kept = [np.ones(len(part.numbers), bool) for part in (first, second)]
    file = InvertedFile.merge([first.file, second.file], kept)
    return _Part(np.concatenate([first.numbers, second.numbers]), file)


def _listed(parts: list[_Part]) -> tuple[list[str], list[AsmkCodes]]:
    """The images of parts one by one, as ``Index.add`` takes them."""
    ids: list[str] = []
    images: list[AsmkCodes] = []
    for numbers, file in parts:
        order = np.argsort(file.images, kind="stable")
        words = np.repeat(file.words, np.diff(file.offsets))[order]
        ids += [id_of(number) for number in numbers.tolist()]
        images += split_images(words, file.codes[order], file.word_counts)
    return ids, images


def _parts_of_index(path: Path, codebook: Codebook) -> Iterator[_Part]:
    with closing(open_index(path, codebook)) as index:
        for ids, file in inverted_files(index):
            try:
                yield _Part(np.array([number_of(id_) for id_ in ids], np.int64), file)
            except ValueError:
                raise IncompatibleError(
                    f"{path}: its images have names instead of numbers; name another folder"
                ) from None


def _parts_of_pickle(path: Path, codebook: Codebook) -> Iterator[_Part]:
    stored = load_asmk_ivf(path, codebook.dimensions)
    check_words(stored, codebook, "the codebook")
    for numbers, images in stored.blocks():
        # An image without entries may never have been added, so it still can be.
        added = [i for i, image in enumerate(images) if len(image.words)]
        yield _Part(numbers[added], InvertedFile.build([images[i] for i in added], _layout(codebook)))


def _layout(codebook: Codebook) -> Layout:
    """The package asmk knows no positions."""
    return Layout(ASMK, codebook.dimensions)
