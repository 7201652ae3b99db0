"""Inverted files in a GPU's memory, and the search through all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.codes import CODE_BITS, AsmkQuery
from runtime.asmk.inverted_file import InvertedFile
from runtime.gpu.device import Device, DeviceArray

BINS = 4096  # of scores, to find the best; `scoring.cu` maps scores to bins
ENTRY_THREADS = 64  # of a block, which scores one list: most lists have some hundred entries
IMAGE_THREADS = 256
QUERY_THREADS = 32
MAX_QUERIES = 64  # scored together: their totals of one file, 32 MB, stay in a large GPU's cache
SOURCE = Path(__file__).with_name("scoring.cu")
KERNELS = ("add_weights", "count_hits", "find_lowest", "collect_hits")
SPARE_HITS = 1024  # collected beyond twice the requested number, because bins are collected whole


class Scoring:
    """``scoring.cu``, compiled for codes of one length.

    Attributes:
        device: the GPU.
        code_length: uint64 words of a code.
    """

    def __init__(self, device: Device, code_length: int) -> None:
        """Raises HowlError if the kernels cannot be compiled here."""
        self.device = device
        self.code_length = code_length
        defines = {"CODE_LENGTH": code_length, "BINS": BINS}
        # Fused multiply-adds would round differently from the CPU.
        self._kernels = device.compile(SOURCE, KERNELS, defines, fused=False)

    def launch(self, kernel: str, blocks: tuple[int, int], threads: int, *arguments: DeviceArray | np.generic) -> None:
        """Queues one of KERNELS: ``Device.launch``."""
        self.device.launch(self._kernels[kernel], blocks, threads, *arguments)


@dataclass(frozen=True)
class DeviceFile:
    """An inverted file in a GPU's memory: ``InvertedFile``, with offsets for absent words too.

    Attributes:
        codes: uint64 [e, L], on the GPU.
        images: uint16 [e], on the GPU.
        offsets: int64 [w + 1], on the GPU; the entries of word i < w are ``offsets[i]:offsets[i + 1]``.
        words: w, the largest word + 1.
        word_counts: uint32 [n], on the host.
    """

    codes: DeviceArray
    images: DeviceArray
    offsets: DeviceArray
    words: int
    word_counts: NDArray[np.uint32]

    @classmethod
    def upload(cls, device: Device, file: InvertedFile) -> "DeviceFile":
        """Raises HowlError if there is no room, ValueError if entries name images that the file does not have."""
        if len(file.images) and int(file.images.max()) >= len(file):  # a kernel would write beyond the totals
            raise ValueError(f"entries name images beyond the {len(file)} of the file")
        offsets = np.zeros(_words(file) + 1, np.int64)
        offsets[file.words.astype(np.int64) + 1] = np.diff(file.offsets)
        return cls(
            codes=device.upload(file.codes),
            images=device.upload(file.images),
            offsets=device.upload(np.cumsum(offsets)),
            words=_words(file),
            word_counts=np.array(file.word_counts),
        )

    @property
    def bytes(self) -> int:
        """Bytes of the GPU's memory that it takes."""
        return int(self.codes.nbytes + self.images.nbytes + self.offsets.nbytes)


def upload_bytes(file: InvertedFile) -> int:
    """Bytes of the GPU's memory that a file will take."""
    return file.codes.nbytes + file.images.nbytes + 8 * (_words(file) + 1)


def search_bytes(images: int, top: int = 0) -> int:
    """Bytes of the GPU's memory that the images and the search of one query take, besides the files."""
    return images * (np.dtype(np.int64).itemsize + 4) + BINS * 4 + _capacity(images, top) * native.HIT.itemsize


@dataclass(frozen=True)
class Batch:
    """Queries on the GPU, as one ascending list of their words, so that queries share what is in the cache.

    Attributes:
        rows: r, the number of words of all queries.
        words: uint32 [r].
        queries: uint32 [r], the query of each word.
        codes: uint64 [r, L].
        sizes: uint32 [q], the number of words of every query, on the host.
        device_sizes: the same on the GPU.
        weights: int64 [64·L + 2], the similarity table in units of 2⁻⁴⁰.
        cutoff: from this distance on, all weights are 0.
    """

    rows: int
    words: DeviceArray
    queries: DeviceArray
    codes: DeviceArray
    sizes: NDArray[np.uint32]
    device_sizes: DeviceArray
    weights: DeviceArray
    cutoff: int


@dataclass(frozen=True)
class Collected:
    """Hits of a batch on the GPU, unsorted; the requested ones are among them.

    Attributes:
        found: uint32 [q], how many there are.
        hits: int64 [q, c, 2], ``native.HIT``; c may be less than ``found``.
    """

    found: DeviceArray
    hits: DeviceArray


@dataclass(frozen=True)
class Competing:
    """The images among which a search takes place.

    Attributes:
        word_counts: uint32 [images], the number of words of every image; 0 for those that do not compete.
        on_device: the same on the GPU.
    """

    word_counts: NDArray[np.uint32]
    on_device: DeviceArray


class Matcher:
    """The search through inverted files on a GPU; images are numbered through all of them, in their order.

    Threads may share it. Its answers are, to the bit, those of ``InvertedFile.best``.
    """

    def __init__(self, scoring: Scoring, files: Sequence[DeviceFile], live: Sequence[NDArray[np.bool_]]) -> None:
        """``live``: bool [n] for every file, the images that compete if a search does not say otherwise."""
        firsts = np.cumsum([0, *(len(file.word_counts) for file in files)])
        self.images = int(firsts[-1])
        self._scoring = scoring
        self._device = scoring.device
        self._files = list(files)
        self._competing = self.competing(live)
        self._table = self._device.upload(_table(files, firsts))
        self._room = self._device.free_bytes() // 2

    def competing(self, live: Sequence[NDArray[np.bool_]]) -> Competing:
        """Images that compete, on the GPU, for searches among them. ``live``: bool [n] for every file."""
        counts = [np.where(alive, file.word_counts, 0) for file, alive in zip(self._files, live, strict=True)]
        word_counts = np.concatenate([np.empty(0, np.uint32), *counts]).astype(np.uint32)
        return Competing(word_counts, self._device.upload(word_counts))

    def search(
        self, queries: Sequence[AsmkQuery], top: int, competing: Competing | None = None
    ) -> list[NDArray[np.void]]:
        """For every query the images with the largest scores, at most ``top`` and only above 0, best first.

        Of equal scores the earlier image comes first.

        Args:
            queries: of one kernel, so that all have the same similarity table.
            top: the maximum number of hits per query.
            competing: the images among which to search; None for those of the matcher.

        Returns:
            structured arrays with fields ``score`` and ``image``.
        """
        if top < 1 or self.images == 0:
            return [np.empty(0, native.HIT) for _ in queries]
        hits: list[NDArray[np.void]] = []
        for some in _batches(queries, self._batch_size(top)):
            batch = self.load(some)
            totals = self.totals(batch)
            collected = self.collect(batch, totals, top, competing)
            hits += self._read(batch, totals, collected, top, competing or self._competing)
        return hits

    def load(self, queries: Sequence[AsmkQuery]) -> Batch:
        """Uploads at most MAX_QUERIES queries. Raises ValueError if they do not belong together."""
        device, length = self._device, self._scoring.code_length
        if any(query.codes.shape != (len(query.words), length) for query in queries):
            raise ValueError(f"expected codes of {length} uint64 words, one for every word of a query")
        table = queries[0].similarity_table
        if not all(np.array_equal(query.similarity_table, table) for query in queries):
            raise ValueError("queries that are searched together need one similarity table")
        sizes = np.array([len(query.words) for query in queries], np.uint32)
        words = np.concatenate([query.words for query in queries]).astype(np.uint32)
        codes = np.concatenate([query.codes for query in queries]).astype(np.uint64)
        order = np.argsort(words, kind="stable")
        fixed = np.zeros(CODE_BITS * length + 2, np.int64)
        fixed[: len(table)] = np.rint(table / native.UNIT)
        return Batch(
            rows=len(words),
            words=device.upload(words[order]),
            queries=device.upload(np.repeat(np.arange(len(queries), dtype=np.uint32), sizes)[order]),
            codes=device.upload(codes[order]),
            sizes=sizes,
            device_sizes=device.upload(sizes),
            weights=device.upload(fixed),
            cutoff=int(np.flatnonzero(fixed).max(initial=-1)) + 1,
        )

    def totals(self, batch: Batch) -> DeviceArray:
        """Σ of s^α in units of 2⁻⁴⁰, int64 [q, images], of all queries in one launch."""
        totals = self._device.zeros((len(batch.sizes), self.images), np.int64)
        if batch.rows:
            self._scoring.launch(
                "add_weights",
                (batch.rows, len(self._files)),
                ENTRY_THREADS,
                self._table,
                batch.words,
                batch.queries,
                batch.codes,
                batch.weights,
                np.uint32(batch.cutoff),
                np.uint64(self.images),
                totals,
            )
        return totals

    def collect(self, batch: Batch, totals: DeviceArray, top: int, competing: Competing | None = None) -> Collected:
        """The hits of every query that may be among its ``top`` best, as many as there is room for."""
        competing = competing or self._competing
        device, queries, capacity = self._device, len(batch.sizes), _capacity(self.images, top)
        counts = device.zeros((queries, BINS), np.uint32)
        lowest = device.empty((queries,), np.uint32)
        found = device.zeros((queries,), np.uint32)
        hits = device.empty((queries, capacity, 2), np.int64)
        blocks = _blocks(self.images, IMAGE_THREADS), queries
        scored = totals, competing.on_device, np.uint64(self.images), batch.device_sizes, np.float64(native.UNIT)
        self._scoring.launch("count_hits", blocks, IMAGE_THREADS, *scored, counts)
        wanted = np.uint32(queries), np.uint32(min(top, self.images))
        self._scoring.launch(
            "find_lowest", (_blocks(queries, QUERY_THREADS), 1), QUERY_THREADS, counts, *wanted, lowest
        )
        self._scoring.launch("collect_hits", blocks, IMAGE_THREADS, *scored, lowest, np.uint32(capacity), found, hits)
        return Collected(found, hits)

    def _read(
        self, batch: Batch, totals: DeviceArray, collected: Collected, top: int, competing: Competing
    ) -> list[NDArray[np.void]]:
        found = self._device.download(collected.found)
        hits = self._device.download(collected.hits).view(native.HIT)[..., 0]
        return [
            _ranked(own[:count], top)
            if count <= len(own)
            else self._rank_all(totals.row(query), batch.sizes[query], top, competing.word_counts)
            for query, (own, count) in enumerate(zip(hits, found.tolist(), strict=True))
        ]

    def _rank_all(
        self, totals: DeviceArray, query_words: np.uint32, top: int, word_counts: NDArray[np.uint32]
    ) -> NDArray[np.void]:
        """The same from all totals, on the host: for when far more images than requested score nearly the same."""
        downloaded = self._device.download(totals)
        images = np.flatnonzero((downloaded > 0) & (word_counts > 0))
        hits = np.empty(len(images), native.HIT)
        hits["image"] = images
        hits["score"] = downloaded[images] * native.UNIT / np.sqrt(float(query_words) * word_counts[images])
        return _ranked(hits, top)

    def _batch_size(self, top: int) -> int:
        return max(1, min(MAX_QUERIES, self._room // search_bytes(self.images, top)))


def _table(files: Sequence[DeviceFile], firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``struct file`` of ``scoring.cu`` for every file: int64 [files, 5]."""
    rows = [
        (file.codes.address, file.images.address, file.offsets.address, file.words, first)
        for file, first in zip(files, firsts[:-1].tolist(), strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 5)


def _words(file: InvertedFile) -> int:
    return int(file.words[-1]) + 1 if len(file.words) else 0


def _capacity(images: int, top: int) -> int:
    return min(images, 2 * top + SPARE_HITS)


def _blocks(items: int, threads: int) -> int:
    return -(-items // threads)


def _batches(queries: Sequence[AsmkQuery], size: int) -> Iterator[Sequence[AsmkQuery]]:
    return (queries[start : start + size] for start in range(0, len(queries), size))


def _ranked(hits: NDArray[np.void], top: int) -> NDArray[np.void]:
    return hits[np.lexsort((hits["image"], -hits["score"]))[:top]]
