"""asmk's inverted file (IVF) on top of ours: numbered images, in memory, and on disk as an index."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery, code_length
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk_method.importing import check_words, id_of, inverted_files, new_index, number_of, open_index
from runtime.asmk_method.pickles import load_asmk_ivf, split_images
from runtime.errors import DuplicateIdError, IncompatibleError, UsageError
from runtime.first_stage import MAX_IMAGES
from runtime.index import Index

NUMBERS = 2**31  # that images can have: an answer has a column for each up to the largest


class _Part(NamedTuple):
    """Some images of an IVF: their numbers int64 [n], ~j for distractor j, and their entries."""

    numbers: NDArray[np.int64]
    file: InvertedFile


class Ivf:
    """The entries of numbered images.

    Attributes:
        images: how many there are, counting every number up to the largest.
        distractors: how many there are in addition.
    """

    def __init__(self, codebook: Codebook) -> None:
        self.images = 0
        self.distractors = 0
        self._codebook = codebook
        self._saved: list[_Part] = []
        self._unsaved: list[_Part] = []
        self._known: set[int] = set()

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
        ivf._unsaved = [_Part(~loaded._columns(numbers), file) for numbers, file in loaded._saved]
        return ivf

    def __len__(self) -> int:
        return self.images + self.distractors

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
        for wrong in ids[(ids < 0) | (ids >= NUMBERS)][:1]:
            raise UsageError(f"image id {wrong}: ids number the images from 0 and stay below {NUMBERS}; renumber them")
        numbers, counts = np.unique(ids.astype(np.int64), return_counts=True)
        if known := self._known.intersection(numbers.tolist()):
            raise DuplicateIdError(
                f"image {min(known)} is in the inverted file already; add all its descriptors at once"
            )
        images = split_images(words[order].astype(np.uint32), des[order], counts)
        for start in range(0, len(numbers), MAX_IMAGES):
            part = slice(start, start + MAX_IMAGES)
            self._append(_Part(numbers[part], InvertedFile.build(images[part], self._codebook.dimensions)))

    def scores(self, query: AsmkQuery) -> NDArray[np.float64]:
        """The scores of all images and then all distractors, float64 [n], as ``InvertedFile.scores``."""
        scores = np.zeros(len(self))
        for numbers, file in (*self._saved, *self._unsaved):
            scores[self._columns(numbers)] = file.scores(query)
        return scores

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

    def _check_entries(self, codes: NDArray[np.uint64], words: NDArray[np.integer], ids: NDArray[np.integer]) -> None:
        """Refuses codes [e, L] of another kernel, and sorted words and ids [e] that name an entry twice."""
        fit = codes.dtype == np.uint64 and codes.shape[1:] == (self._code_length,) and words.max() < len(self._codebook)
        if not fit or ((words[1:] == words[:-1]) & (ids[1:] == ids[:-1])).any():
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
        self.images = max(self.images, 1 + int(numbers.max(initial=-1)))
        self.distractors = max(self.distractors, -int(numbers.min(initial=0)))

    def _columns(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The columns of images and distractors in an answer."""
        return np.where(numbers >= 0, numbers, self.images + ~numbers)


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
        yield _Part(numbers[added], InvertedFile.build([images[i] for i in added], codebook.dimensions))
