"""Both sides of the comparison, with the same methods: howl's own functions, and the package ``asmk`` with faiss.

``asmk`` (Jenicek and Tolias) and faiss are imported only here, and late: how fast they are depends on environment
variables that must be set before.
"""

import os
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery
from runtime.asmk.kernel import AsmkKernel, AsmkParameters, aggregate
from runtime.index import Hit, Index
from tools.experiments.asmk_benchmark.workload import Built, Workload, image_number

PARAMETERS = AsmkParameters()
TOP = 100
HOW_TO_GET = "pip install asmk==0.1.1 faiss-cpu  (it needs a C compiler)"
MODULES = ("asmk", "asmk.hamming", "faiss")
BLAS_FROM = 1  # numbers in a query's descriptors: faiss uses its matrix product always
FIRST_ROOM, MORE_ROOM = 10, 1.5  # entries that asmk makes room for, and by what factor it makes more
REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), axis=1, bitorder="little")[:, 0]


class Answer(NamedTuple):
    """Ranked images int64 [k] and their scores float64 [k]."""

    images: NDArray[np.int64]
    scores: NDArray[np.float64]


class Ours:
    """A query in three steps."""

    def __init__(self, codebook: Codebook, index: Index) -> None:
        self._kernel = AsmkKernel(codebook, PARAMETERS)
        self._index = index

    def quantise(self, descriptors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The words of descriptors, int64 [n, 5]."""
        return self._kernel.codebook.assign(descriptors, PARAMETERS.multiple_assignment)

    def aggregate(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> AsmkCodes:
        """The words and codes of an image."""
        return aggregate(descriptors, words, self._kernel.codebook.centroids)

    def search(self, codes: AsmkCodes) -> list[Hit]:
        """The TOP best images."""
        return self._index.search(self._kernel.query(codes), TOP)

    def answer(self, hits: list[Hit]) -> Answer:
        """The same, in numbers."""
        return Answer(np.array([image_number(hit.id) for hit in hits], np.int64), np.array([hit.score for hit in hits]))

    def scores(self, codes: AsmkCodes) -> NDArray[np.float64]:
        """Of all images, float64 [n]."""
        return self._index.scores(self._kernel.query(codes))


def encode_query(descriptors: NDArray[np.float32], codebook: Codebook) -> AsmkQuery:
    """A query, as an index is searched with."""
    kernel = AsmkKernel(codebook, PARAMETERS)
    return kernel.query(kernel.encode(descriptors, PARAMETERS.multiple_assignment))


class ReferenceCodes(NamedTuple):
    """An image as asmk sees it: codes uint32 [n, D/32] and words int64 [n]."""

    codes: NDArray[np.uint32]
    words: NDArray[np.int64]


class Reference:
    """A query in three steps, and building."""

    def __init__(self, centroids: NDArray[np.float32], *, tuned: bool) -> None:
        """``tuned``: faiss with its matrix product for any number of descriptors."""
        if tuned:
            import_module("faiss").cvar.distance_compute_blas_threshold = BLAS_FROM
        index = import_module("asmk.index").initialize_index(gpu_id=None)
        self._codebook = import_module("asmk.codebook").Codebook(index, size=len(centroids))
        self._codebook.index(centroids)
        self._kernel = import_module("asmk.kernel").ASMKKernel(self._codebook, binary=True)
        self._file: Any = None

    def use_threads(self, threads: int) -> None:
        """How many threads faiss takes."""
        import_module("faiss").omp_set_num_threads(threads)

    def fill(self, workload: Workload, images: int) -> None:
        """Takes the first images as ``add`` would leave them after many minutes, lists with the room that it makes."""
        counts = workload.list_lengths(images), workload.word_counts[:images]
        self._file = inverted_file(*lists(workload, images), *counts)

    def quantise(self, descriptors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The words of descriptors, int64 [n, 5]."""
        return self._codebook.quantize(descriptors, multiple_assignment=PARAMETERS.multiple_assignment)[1]

    def aggregate(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> ReferenceCodes:
        """The words and codes of an image."""
        return ReferenceCodes(*self._kernel.aggregate_image(descriptors, words))

    def search(self, query: ReferenceCodes) -> Answer:
        """The TOP best images."""
        return self._search(query, TOP)

    def answer(self, found: Answer) -> Answer:
        """The same, in numbers: it is."""
        return found

    def scores(self, query: ReferenceCodes) -> NDArray[np.float64]:
        """Of all images, float64 [n]."""
        images, scores = self._search(query, None)
        return scores[np.argsort(images)]

    def aggregate_all(self, built: Built) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """Images with assigned descriptors as codes, words and image numbers of their entries."""
        images = np.repeat(np.arange(len(built.counts)), built.counts)
        return self._kernel.aggregate(built.descriptors, built.words, images)

    def add(self, codes: NDArray[np.uint32], words: NDArray[np.int64], images: NDArray[np.int64]) -> None:
        """Adds those entries to an empty inverted file."""
        module = import_module("asmk.inverted_file")
        self._file = module.IVF.initialize_empty(codebook_size=self._codebook.size, use_idf=False)
        self._file.add(codes, words, images)

    def save(self, path: Path) -> None:
        """Writes the inverted file as asmk does, and waits until it is on the disk, which asmk does not."""
        with path.open("wb") as file:
            pickle.dump(self._file.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())

    def _search(self, query: ReferenceCodes, top: int | None) -> Answer:
        return Answer(*self._file.search(*query, similarity_func=self._similarity, topk=top))

    def _similarity(self, *arrays: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._kernel.similarity(*arrays, alpha=PARAMETERS.alpha, similarity_threshold=PARAMETERS.threshold)


def lists(workload: Workload, images: int) -> tuple[list[Any], list[Any]]:
    """The codes and the image numbers of every word, None for one without any, with room as asmk makes it."""
    entries = workload.entries(images)
    lengths = workload.list_lengths(images)
    order = np.argsort(workload.words[:entries].astype(np.uint16), kind="stable")
    numbers = np.repeat(np.arange(images), workload.word_counts[:images])
    codes: list[Any] = []
    ids: list[Any] = []
    end = 0
    for length in tqdm(lengths.tolist(), desc="filling asmk's lists", disable=None, leave=False):
        own = order[end : end + length]
        end += length
        codes.append(with_room(their_codes(workload.codes[own])) if length else None)
        ids.append(with_room(numbers[own]) if length else None)
    return codes, ids


def inverted_file(codes: list[Any], ids: list[Any], lengths: NDArray[np.int64], word_counts: NDArray[np.int64]) -> Any:
    """asmk's inverted file with those lists, of so many entries each."""
    return import_module("asmk.inverted_file").IVF(
        norm_factor=word_counts.astype(np.float64),
        n_images=len(word_counts),
        ivf_vecs=codes,
        ivf_image_ids=ids,
        counts=lengths.astype(np.int32),
        idf=np.ones(len(codes), np.float32),
        imid_offset=0,
        use_idf=False,
    )


def their_codes(codes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Codes uint64 [n, L], the first component in the lowest bit, as asmk's: uint32 [n, 2·L], first in the highest."""
    reversed_bytes = REVERSED[np.ascontiguousarray(codes).view(np.uint8)]
    return reversed_bytes.view(">u4").astype(np.uint32)


def with_room(array: NDArray) -> NDArray:
    """A list that asmk has grown entry by entry to hold these: what lies behind them is unused."""
    room = FIRST_ROOM
    while room < len(array):
        room = int(np.ceil(room * MORE_ROOM))
    grown = np.zeros((room, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
