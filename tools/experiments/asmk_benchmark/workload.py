"""The workload of the benchmark: a codebook, queries as descriptors, and images to search as visual words and codes.

Descriptors come from a mixture: elements in feature space, the topics that images are about, and how popular they are.
Its numbers give, at 65,536 words: about 440 words an image, lists 1.9 times as costly as even ones, a longest list of
some 25 times the mean, 5 % of words without any image, and a query at 5 words a descriptor that scans 5.7 % of all
entries. Descriptors vary in all 128 dimensions alike, as whitened ones do.

The first images are made from descriptors, which the codebook assigns: five for each query that show some of the same
spots, then others. All further images are made directly as words and codes: every descriptor is one of four of its
element that were assigned before. Their words and codes follow the same statistics, but noise is not drawn again, and a
word that several descriptors of an image have takes the code of one of them, not of their sum. Queries are always
descriptors.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, code_length, pack_signs
from runtime.asmk.kernel import aggregate

# Of the mixture
DIMENSIONS = 128
ELEMENTS_A_WORD = 6
SIBLINGS = 16  # elements that lie around one place in feature space
SPREAD = np.float32(0.8)  # of siblings around it; places are at distance 1 in every dimension
NOISE = np.float32(0.32)  # of descriptors around their element
TOPIC = 256  # elements, at most
TOPICS_AN_IMAGE = 12
SHOWN = 780  # elements that an image shows, some several times; the descriptors are chosen among them
DESCRIPTORS = (450, 951)  # an image; below the 1,000 where faiss takes another path
SKEW = 1.8  # of popularity: the share x of the most popular ones is chosen with probability x^(1/SKEW)
SHUFFLED = 0.7  # how far elements of one place differ in popularity

# Of images
SHARED = (0.01, 0.02, 0.03, 0.05, 0.1)  # of its descriptors with the query: one planted image each
MATCHES = len(SHARED)
VIEW_NOISE = NOISE / 2  # between two descriptors of the same spot
FROM_DESCRIPTORS = 2000  # images, at most
ASSIGNED_BATCH = 50  # images
BUILT = 1000  # images, at most, whose descriptors are kept, to measure building
SAMPLES = 4  # descriptors of every element, for the images that are made directly
SAMPLED_BATCH = 32_768  # elements
DIRECT_BATCH = 1000  # images

# What random numbers are drawn for: each has a stream of its own, so that more images never change the first ones.
WORLD, CODEBOOK, QUERIES, IMAGES, SAMPLING, DIRECT = range(6)

CODE_LENGTH = code_length(DIMENSIONS)
ENTRY_BYTES = 2 + 8 * CODE_LENGTH  # the least that an entry takes: a number of 16 bits and the code
ABOUT = "about.json"


class Built(NamedTuple):
    """Images with assigned descriptors: how many each has int64 [n], the descriptors float32 and words int64 of all."""

    counts: NDArray[np.int64]
    descriptors: NDArray[np.float32]
    words: NDArray[np.int64]


class Workload:
    """What ``make_workload`` wrote to a folder.

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


class Mixture:
    """Where descriptors come from.

    Attributes:
        elements: float32 [E, D], topic by topic, the popular ones first.
    """

    def __init__(self, words: int, random: np.random.Generator) -> None:
        """``words``: of the codebook that will be made of it."""
        count = words * ELEMENTS_A_WORD
        self._topic = min(TOPIC, max(1, count // 32))
        self._topics = count // self._topic
        places = random.standard_normal((-(-count // SIBLINGS), DIMENSIONS), np.float32)
        self.elements = SPREAD * random.standard_normal((count, DIMENSIONS), np.float32)
        self.elements += places[self._places(count, random)]

    def draw(self, images: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What images show: the number of descriptors of each, int64 [n], and the elements of all, int64 [sum]."""
        counts = random.integers(*DESCRIPTORS, images)
        topics = _skewed(random, self._topics, (images, TOPICS_AN_IMAGE))
        chosen = np.take_along_axis(topics, random.integers(TOPICS_AN_IMAGE, size=(images, SHOWN)), axis=1)
        shown = chosen * self._topic + _skewed(random, self._topic, (images, SHOWN))
        return counts, shown[np.repeat(np.arange(images), counts), random.integers(SHOWN, size=int(counts.sum()))]

    def describe(self, elements: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float32]:
        """A descriptor of every element, float32 [n, D]."""
        return around(self.elements[elements], NOISE, random)

    def _places(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        """The place of every element, so that siblings are of like popularity: dense regions are popular ones."""
        numbers = np.arange(count)
        topic, within = numbers // self._topic % self._topics, numbers % self._topic
        popularity = (1 / SKEW - 1) * (np.log(topic + 0.5) + np.log(within + 0.5))
        places = np.empty(count, np.int64)
        places[np.argsort(popularity + SHUFFLED * random.standard_normal(count))] = numbers // SIBLINGS
        return places


def around(points: NDArray[np.float32], noise: np.float32, random: np.random.Generator) -> NDArray[np.float32]:
    """The points float32 [n, D], each with noise of that much in every dimension."""
    return points + noise * random.standard_normal(points.shape, np.float32)


def _skewed(random: np.random.Generator, below: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return (below * random.random(shape) ** SKEW).astype(np.int64)


@dataclass(frozen=True)
class Size:
    """What to make: images (at least 2 · MATCHES a query), queries, visual words, and the seed of it all."""

    images: int
    queries: int
    words: int
    seed: int

    def random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])

    @property
    def from_descriptors(self) -> int:
        return max(self.queries * MATCHES, min(FROM_DESCRIPTORS, self.images // 2))


class Block(NamedTuple):
    """Images: how many words each has, int64 [n], and the words uint32 [e] and codes uint64 [e, L] of all."""

    word_counts: NDArray[np.int64]
    words: NDArray[np.uint32]
    codes: NDArray[np.uint64]


def make_workload(folder: Path, size: Size, threads: int) -> Workload:
    """Writes a workload to a new folder; ``threads`` share the assignment of descriptors."""
    folder.mkdir(parents=True)
    mixture = Mixture(size.words, size.random(WORLD))
    codebook = make_codebook(mixture, size)
    queries = [describe_image(mixture, size.random(QUERIES, query)) for query in range(size.queries)]
    np.save(folder / "centroids.npy", codebook.centroids)
    np.save(folder / "query_descriptors.npy", np.concatenate(queries))
    np.save(folder / "query_counts.npy", [len(query) for query in queries])

    built: list[Built] = []
    word_counts: list[NDArray[np.int64]] = []
    with (
        (folder / "words.bin").open("wb") as words,
        (folder / "codes.bin").open("wb") as codes,
        tqdm(total=size.images, desc="making images", unit="image", disable=None) as bar,
    ):

        def write(block: Block) -> None:
            word_counts.append(block.word_counts)
            block.words.tofile(words)
            block.codes.tofile(codes)
            bar.update(len(block.word_counts))

        for images in described_images(mixture, codebook, queries, size, threads):
            if len(built) < BUILT // ASSIGNED_BATCH:
                built.append(images)
            write(aggregate_images(images, codebook))
        for block in direct_images(mixture, codebook, size, threads):
            write(block)
    np.save(folder / "word_counts.npy", np.concatenate(word_counts))
    for name, parts in zip(Built._fields, zip(*built, strict=True), strict=True):
        np.save(folder / f"built_{name}.npy", np.concatenate(parts))
    about = {"matches": MATCHES, "from_descriptors": size.from_descriptors, "built": sum(len(b.counts) for b in built)}
    (folder / ABOUT).write_text(json.dumps({"images": size.images, "queries": size.queries, **about}))
    return Workload(folder)


def make_codebook(mixture: Mixture, size: Size) -> Codebook:
    """Words that are descriptors: where descriptors are dense, so are words."""
    random = size.random(CODEBOOK)
    _, elements = mixture.draw(1 + size.words // 100, random)
    return Codebook(mixture.describe(random.permutation(elements)[: size.words], random))


def describe_image(mixture: Mixture, random: np.random.Generator) -> NDArray[np.float32]:
    """The descriptors of one image, float32 [n, D]."""
    _, elements = mixture.draw(1, random)
    return mixture.describe(elements, random)


def described_images(
    mixture: Mixture, codebook: Codebook, queries: list[NDArray[np.float32]], size: Size, threads: int
) -> Iterator[Built]:
    """The images that are made from descriptors, at most ASSIGNED_BATCH at a time; the planted ones come first."""
    for start in range(0, size.from_descriptors, ASSIGNED_BATCH):
        images = []
        for image in range(start, min(start + ASSIGNED_BATCH, size.from_descriptors)):
            random = size.random(IMAGES, image)
            images.append(describe_image(mixture, random))
            query, match = divmod(image, MATCHES)
            if query < len(queries):
                shared = queries[query][: int(SHARED[match] * len(images[-1]))]
                images[-1][: len(shared)] = around(shared, VIEW_NOISE, random)
        descriptors = np.concatenate(images)
        words = codebook.assign(descriptors, 1, threads=threads)
        yield Built(np.array([len(image) for image in images]), descriptors, words)


def aggregate_images(images: Built, codebook: Codebook) -> Block:
    """What ASMK makes of them."""
    ends = np.cumsum(images.counts)[:-1]
    parts = np.split(images.descriptors, ends), np.split(images.words, ends)
    aggregated = [aggregate(*part, codebook.centroids) for part in zip(*parts, strict=True)]
    return Block(
        np.array([len(image.words) for image in aggregated]),
        np.concatenate([image.words for image in aggregated]),
        np.concatenate([image.codes for image in aggregated]),
    )


def direct_images(mixture: Mixture, codebook: Codebook, size: Size, threads: int) -> Iterator[Block]:
    """All other images, at most DIRECT_BATCH at a time."""
    left = size.images - size.from_descriptors
    if left == 0:
        return
    sample_words, sample_codes = sample_elements(mixture, codebook, size, threads)
    for block in range(-(-left // DIRECT_BATCH)):
        random = size.random(DIRECT, block)
        counts, elements = mixture.draw(DIRECT_BATCH, random)
        samples = elements * SAMPLES + random.integers(SAMPLES, size=len(elements))
        images = np.repeat(np.arange(DIRECT_BATCH), counts)
        keys, firsts = np.unique(images * len(codebook) + sample_words[samples], return_index=True)
        wanted = min(DIRECT_BATCH, left - block * DIRECT_BATCH) * len(codebook)
        keys, firsts = keys[keys < wanted], firsts[keys < wanted]
        word_counts = np.bincount(keys // len(codebook), minlength=wanted // len(codebook))
        yield Block(word_counts, (keys % len(codebook)).astype(np.uint32), sample_codes[samples[firsts]])


def sample_elements(
    mixture: Mixture, codebook: Codebook, size: Size, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """SAMPLES descriptors of every element in turn: their words int64 [s] and codes uint64 [s, L]."""
    random = size.random(SAMPLING)
    words, codes = [], []
    starts = range(0, len(mixture.elements), SAMPLED_BATCH)
    for start in tqdm(starts, desc="sampling elements", disable=None, leave=False):
        elements = np.arange(start, min(start + SAMPLED_BATCH, len(mixture.elements)))
        descriptors = mixture.describe(np.repeat(elements, SAMPLES), random)
        words.append(codebook.assign(descriptors, 1, threads=threads)[:, 0])
        codes.append(pack_signs(descriptors - codebook.centroids[words[-1]]))
    return np.concatenate(words), np.concatenate(codes)
