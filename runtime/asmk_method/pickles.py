"""Reading what the ``asmk`` package saves: the pickles of its codebook and of its inverted file (IVF).

The layout is asmk 0.1.1's: ``io_helpers.save_pickle(path, object.state_dict())``. Nothing in a pickle is run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import CODE_BITS, AsmkCodes, code_length
from runtime.errors import DamagedError, HowlError, IncompatibleError, MissingError, UsageError
from runtime.first_stage import MAX_IMAGES
from runtime.io.files import open_file
from runtime.io.unpickle import load_plain_pickle

ASMK_BITS = 32  # of asmk's code words; component 0 is the highest bit of the first
NPY_BEGINS = b"\x93NUMPY"
MULTIPLES = {"k": 1024, "M": 1024**2}  # suffixes of a size, as in "64k"
MIRRORED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), axis=1, bitorder="little")[:, 0]


@dataclass(frozen=True)
class AsmkIvf:
    """An IVF that asmk saved. Its lists are checked when it is loaded, its images as they are read.

    Attributes:
        path: of the pickle.
        words: visual words that it has lists for.
        dimensions: D, of the descriptors behind its codes.
        images: images, numbered from 0; those without an entry count.
        distractors: images that were there before the first was added (``initialize_with_distractors``).
    """

    path: Path
    words: int
    dimensions: int
    images: int
    distractors: int
    _lists: "_Lists" = field(repr=False)

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], list[AsmkCodes]]]:
        """All images, at most 65,536 at a time: numbers int64 [n], ascending from 0; then distractor j as number ~j.

        Raises:
            HowlError: an image does not have as many entries as asmk counted, or has impossible ones.
        """
        for first, last in _ranges(self.distractors, self.distractors + self.images):
            yield np.arange(first, last) - self.distractors, self._read(first, last)
        for first, last in _ranges(0, self.distractors):
            yield ~np.arange(first, last), self._read(first, last)

    def _read(self, first: int, last: int) -> list[AsmkCodes]:
        """The images that asmk stored as first…last − 1."""
        words: list[int] = []
        lengths: list[int] = []
        images, codes = [np.empty(0, np.uint16)], [np.empty((0, code_length(self.dimensions)), np.uint64)]
        for word in np.flatnonzero(self._lists.counts).tolist():
            ids, vectors = self._lists.entries(word)
            here = np.flatnonzero((ids >= first) & (ids < last))
            words.append(word)
            lengths.append(len(here))
            images.append((ids[here].astype(np.int64) - first).astype(np.uint16))
            codes.append(from_asmk_codes(vectors[here], self.dimensions))
        all_images = np.concatenate(images)
        order = np.argsort(all_images, kind="stable")
        all_words, all_codes = np.repeat(np.array(words, np.uint32), lengths)[order], np.concatenate(codes)[order]
        counts = np.bincount(all_images, minlength=last - first)
        self._check(first, counts, all_images[order], all_words, all_codes)
        return split_images(all_words, all_codes, counts)

    def _check(
        self,
        first: int,
        counts: NDArray[np.intp],
        images: NDArray[np.uint16],
        words: NDArray[np.uint32],
        codes: NDArray[np.uint64],
    ) -> None:
        """Refuses entries, in the order of their images, that no image can have."""
        norms = self._lists.norms[first : first + len(counts)]
        for i in np.flatnonzero(counts != norms)[:1]:
            _refuse(self.path, f"image {first + i} has {counts[i]} entries instead of {norms[i]:g}")
        for i in np.flatnonzero((images[1:] == images[:-1]) & (words[1:] == words[:-1]))[:1]:
            _refuse(self.path, f"image {first + images[i]} has visual word {words[i]} twice")
        if self.dimensions % CODE_BITS and (codes[:, -1] >> np.uint64(self.dimensions % CODE_BITS)).any():
            _refuse(self.path, f"it has codes of more than {self.dimensions} bits")


@dataclass(frozen=True)
class _Lists:
    """asmk's lists, by visual word. Only the first ``counts`` of a list are entries; the rest is room to grow.

    Attributes:
        counts: integer [C].
        ids: integer [≥ count] for every word, the images as they are stored; or None.
        vectors: uint32 [≥ count, ⌈D/32⌉] for every word, their codes; or None.
        norms: [n], the entries of every image.
    """

    counts: NDArray[np.integer]
    ids: list[NDArray[np.integer]]
    vectors: list[NDArray[np.uint32]]
    norms: NDArray

    def entries(self, word: int) -> tuple[NDArray[np.integer], NDArray[np.uint32]]:
        """The images of a word, and their codes."""
        count = self.counts[word]
        return self.ids[word][:count], self.vectors[word][:count]


def load_any_codebook(path: Path) -> Codebook:
    """The codebook of a file that ``Codebook.save`` or asmk wrote, whatever its name. Raises HowlError."""
    try:
        with open_file(path) as file:
            ours = file.read(len(NPY_BEGINS)) == NPY_BEGINS
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}") from None
    return Codebook.load(path) if ours else load_asmk_codebook(path)


def load_asmk_codebook(path: Path) -> Codebook:
    """The codebook of a pickle that asmk saved. Raises HowlError if it is anything else."""
    params, state = _content(path, "Codebook")
    centroids = state.get("centroids")
    if not isinstance(centroids, np.ndarray) or centroids.dtype != np.float32 or centroids.ndim != 2:
        _refuse(path, "its centroids are not float32 [words, dimensions]")
    if not centroids.size or not np.isfinite(centroids).all():
        _refuse(path, "its centroids are not all numbers")
    try:
        size = words_of_size(params.get("size"))
    except HowlError as error:
        _refuse(path, str(error))
    if len(centroids) != size:
        _refuse(path, f"it has {len(centroids)} visual words and says {size}")
    return Codebook(centroids)


def load_asmk_ivf(path: Path, dimensions: int) -> AsmkIvf:
    """The IVF of a pickle that asmk saved.

    Args:
        path: of the pickle.
        dimensions: D of its codebook, which the pickle does not contain.

    Raises:
        HowlError: it is not such a pickle, it is damaged, or it was built without binary codes or with IDF weights.
    """
    params, state = _content(path, "IVF")
    if params.get("use_idf"):
        raise IncompatibleError(
            f"{path}: built with use_idf, which howl does not know; build it again with use_idf: False"
        )
    images, offset = _whole(path, state, "n_images"), _whole(path, {"imid_offset": 0, **state}, "imid_offset")
    if offset > images:
        _refuse(path, f"{offset} distractors among {images} images")
    lists = _lists(path, state, images)
    for word in np.flatnonzero(lists.counts).tolist():
        _check_list(path, lists, word, images, dimensions)
    return AsmkIvf(path, len(lists.counts), dimensions, images - offset, offset, lists)


def from_asmk_codes(codes: NDArray[np.uint32], dimensions: int) -> NDArray[np.uint64]:
    """asmk's codes, uint32 [n, ⌈D/32⌉] → ours, uint64 [n, ⌈D/64⌉] (``runtime.asmk.codes.pack_signs``)."""
    octets = np.zeros((len(codes), code_length(dimensions) * CODE_BITS // 8), np.uint8)
    highest_first = np.ascontiguousarray(codes, ">u4").view(np.uint8)
    octets[:, : highest_first.shape[1]] = MIRRORED[highest_first]
    return octets.view(np.uint64)


def split_images(words: NDArray[np.uint32], codes: NDArray[np.uint64], counts: NDArray[np.integer]) -> list[AsmkCodes]:
    """Entries in the order of their images, words [e] and codes [e, L] → the images, of ``counts`` [n] entries each."""
    ends = np.cumsum(counts).tolist()
    return [AsmkCodes(words[start:end], codes[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def words_of_size(size: object) -> int:
    """The number of words that asmk's parameter ``size`` means: 65536, or "64k". Raises HowlError if it is invalid."""
    if isinstance(size, str) and size[-1:] in MULTIPLES and size[:-1].isdecimal():
        size = int(size[:-1]) * MULTIPLES[size[-1]]
    if isinstance(size, int | np.integer) and size >= 1:
        return int(size)
    raise UsageError(f"{size!r} is no codebook size; it is a whole number, or one such as 64k")


def _ranges(first: int, last: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, MAX_IMAGES):
        yield start, min(start + MAX_IMAGES, last)


def _content(path: Path, kind: str) -> tuple[dict, dict]:
    """The parameters and the state of a pickled ``state_dict``."""
    content = load_plain_pickle(path)
    if not isinstance(content, dict) or content.get("type") != kind:
        raise IncompatibleError(f"{path}: not the pickle of an asmk {kind}")
    params, state = content.get("params"), content.get("state")
    if not isinstance(params, dict) or not isinstance(state, dict):
        _refuse(path, "it lacks params or state")
    return params, state


def _whole(path: Path, state: dict, key: str) -> int:
    value = state.get(key)
    if not isinstance(value, int | np.integer) or value < 0:
        _refuse(path, f"{key} is {value!r}")
    return int(value)


def _lists(path: Path, state: dict, images: int) -> _Lists:
    counts: Any = state.get("counts")
    ids, vectors = state.get("ivf_image_ids"), state.get("ivf_vecs")
    if not _is_array(counts, "iu", 1) or (counts < 0).any():
        _refuse(path, "counts are not whole numbers")
    if not (isinstance(ids, list) and isinstance(vectors, list) and len(ids) == len(vectors) == len(counts)):
        _refuse(path, "ivf_vecs, ivf_image_ids and counts are not of one length")
    norms: Any = np.zeros(0) if images == 0 else state.get("norm_factor")  # an empty IVF has a list here
    if not _is_array(norms, "iuf", 1) or len(norms) != images:
        _refuse(path, f"norm_factor does not fit {images} images")
    return _Lists(counts, ids, vectors, norms)


def _check_list(path: Path, lists: _Lists, word: int, images: int, dimensions: int) -> None:
    """Refuses a list that is shorter than its count, or has impossible entries."""
    ids, vectors, count = lists.ids[word], lists.vectors[word], lists.counts[word]
    if _is_array(vectors, "f", 2):
        raise IncompatibleError(
            f"{path}: built with binary: False, howl compares binary codes only; build it with binary: True"
        )
    if not (_is_array(ids, "iu", 1) and _is_array(vectors, "u", 2) and vectors.dtype == np.uint32):
        _refuse(path, f"visual word {word} has {count} entries but no arrays of them")
    if vectors.shape[1] != -(-dimensions // ASMK_BITS):
        _refuse(path, f"codes of {vectors.shape[1]} × 32 bits do not come from descriptors of {dimensions} dimensions")
    if min(len(ids), len(vectors)) < count:
        _refuse(path, f"visual word {word} has {min(len(ids), len(vectors))} entries instead of {count}")
    if ids[:count].min() < 0 or ids[:count].max() >= images:
        _refuse(path, f"visual word {word} names an image that is none of the {images}")


def _is_array(value: Any, kinds: str, axes: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in kinds and value.ndim == axes


def _refuse(path: Path, why: str) -> NoReturn:
    raise DamagedError(f"{path}: not as asmk saves it: {why}; save it with asmk again")
