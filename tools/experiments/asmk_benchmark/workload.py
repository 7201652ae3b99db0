"""The workload on disk: a codebook, queries as descriptors, and the images to search as visual words and codes."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codes import AsmkCodes, code_length
from tools.experiments.asmk_benchmark.mixture import DIMENSIONS

CODE_LENGTH = code_length(DIMENSIONS)
ENTRY_BYTES = 2 + 8 * CODE_LENGTH  # the least that an entry takes: a number of 16 bits and the code
ABOUT = "about.json"


class Built(NamedTuple):
    """Images with assigned descriptors: how many each has int64 [n], the descriptors float32 and words int64 of all."""

    counts: NDArray[np.int64]
    descriptors: NDArray[np.float32]
    words: NDArray[np.int64]


class Workload:
    """What ``making.make_workload`` wrote to a folder.

    Attributes:
        about: ``images``, ``queries``, how many images of each query were planted (``matches``), how many images were
            made from descriptors (``from_descriptors``) and of how many of them these were kept (``built``).
        centroids: float32 [C, D].
        word_counts: int64 [images], the entries of every image.
        words: uint32 [entries], a memory map; the entries of an image ascend.
        codes: uint64 [entries, CODE_LENGTH], a memory map.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        self.centroids: NDArray[np.float32] = np.load(folder / "centroids.npy")
        self.word_counts: NDArray[np.int64] = np.load(folder / "word_counts.npy")
        self.words = np.memmap(folder / "words.bin", np.uint32, "r")
        self.codes = np.memmap(folder / "codes.bin", np.uint64, "r").reshape(-1, CODE_LENGTH)
        self._ends = np.append(0, np.cumsum(self.word_counts))

    @cached_property
    def queries(self) -> list[NDArray[np.float32]]:
        """The descriptors of every query, float32 [n, D]."""
        counts = np.load(self.folder / "query_counts.npy")
        return np.split(np.load(self.folder / "query_descriptors.npy"), np.cumsum(counts)[:-1])

    def built(self) -> Built:
        """The images whose descriptors were kept; they are the first of all."""
        names = ("counts", "descriptors", "words")
        return Built(*(np.load(self.folder / f"built_{name}.npy") for name in names))

    def matches(self, query: int) -> NDArray[np.int64]:
        """The images that were planted for a query."""
        return np.arange(query * self.about["matches"], (query + 1) * self.about["matches"])

    def entries(self, images: int) -> int:
        """Of the first images, together."""
        return int(self._ends[images])

    def aggregated(self, start: int, stop: int) -> list[AsmkCodes]:
        """The images from one number to another."""
        first, last = self.entries(start), self.entries(stop)
        ends = self._ends[start + 1 : stop] - first
        parts = np.split(self.words[first:last], ends), np.split(self.codes[first:last], ends)
        return [AsmkCodes(words, codes) for words, codes in zip(*parts, strict=True)]

    def list_lengths(self, images: int) -> NDArray[np.int64]:
        """Of every word among the first images: int64 [C]."""
        return np.bincount(self.words[: self.entries(images)], minlength=len(self.centroids))

    def statistics(self, images: int) -> dict[str, float]:
        """Of the lists of the first images; ``imbalance`` is C·Σ c² / (Σ c)², 1 where all lists are equally long."""
        lengths = self.list_lengths(images).astype(np.float64)
        return {
            "words_an_image": float(lengths.sum() / images),
            "imbalance": float(len(lengths) * np.square(lengths).sum() / lengths.sum() ** 2),
            "longest_over_mean": float(lengths.max() / lengths.mean()),
            "empty_words": float((lengths == 0).mean()),
        }


def image_id(number: int) -> str:
    """The id of an image in the index."""
    return f"photos/{number:07}.jpg"


def image_number(id_: str) -> int:
    """The image of an id."""
    return int(Path(id_).stem)
