"""Makes the workload.

The first images are made from descriptors, which the codebook assigns: five for each query that show some of the same
spots, then others. All further images are made as words and codes straight: every descriptor is one of four of its
element that were assigned before. Their words and codes follow the same statistics, but noise is not drawn anew, and a
word that several descriptors of an image have takes the code of one of them, not of their sum. Queries are always
descriptors.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import pack_signs
from runtime.asmk.kernel import aggregate
from tools.experiments.asmk_benchmark.mixture import NOISE, Mixture, around
from tools.experiments.asmk_benchmark.workload import ABOUT, Built, Workload

SHARED = (0.01, 0.02, 0.03, 0.05, 0.1)  # of its descriptors with the query: one planted image each
MATCHES = len(SHARED)
VIEW_NOISE = NOISE / 2  # between two descriptors of the same spot
FROM_DESCRIPTORS = 2000  # images, at most
ASSIGNED_AT_ONCE = 50  # images
BUILT = 1000  # images, at most, whose descriptors are kept, to measure building
SAMPLES = 4  # descriptors of every element, for the images that are made straight
SAMPLED_AT_ONCE = 32_768  # elements
STRAIGHT_AT_ONCE = 1000  # images

# What random numbers are drawn for: each has a stream of its own, so that more images never change the first ones.
WORLD, CODEBOOK, QUERIES, IMAGES, SAMPLING, STRAIGHT = range(6)


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
            if len(built) < BUILT // ASSIGNED_AT_ONCE:
                built.append(images)
            write(aggregate_images(images, codebook))
        for block in straight_images(mixture, codebook, size, threads):
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
    """The images that are made from descriptors, at most ASSIGNED_AT_ONCE at a time; the planted ones come first."""
    for start in range(0, size.from_descriptors, ASSIGNED_AT_ONCE):
        images = []
        for image in range(start, min(start + ASSIGNED_AT_ONCE, size.from_descriptors)):
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


def straight_images(mixture: Mixture, codebook: Codebook, size: Size, threads: int) -> Iterator[Block]:
    """All other images, at most STRAIGHT_AT_ONCE at a time."""
    left = size.images - size.from_descriptors
    if left == 0:
        return
    sample_words, sample_codes = sample_elements(mixture, codebook, size, threads)
    for block in range(-(-left // STRAIGHT_AT_ONCE)):
        random = size.random(STRAIGHT, block)
        counts, elements = mixture.draw(STRAIGHT_AT_ONCE, random)
        samples = elements * SAMPLES + random.integers(SAMPLES, size=len(elements))
        images = np.repeat(np.arange(STRAIGHT_AT_ONCE), counts)
        keys, firsts = np.unique(images * len(codebook) + sample_words[samples], return_index=True)
        wanted = min(STRAIGHT_AT_ONCE, left - block * STRAIGHT_AT_ONCE) * len(codebook)
        keys, firsts = keys[keys < wanted], firsts[keys < wanted]
        word_counts = np.bincount(keys // len(codebook), minlength=wanted // len(codebook))
        yield Block(word_counts, (keys % len(codebook)).astype(np.uint32), sample_codes[samples[firsts]])


def sample_elements(
    mixture: Mixture, codebook: Codebook, size: Size, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """SAMPLES descriptors of every element in turn: their words int64 [s] and codes uint64 [s, L]."""
    random = size.random(SAMPLING)
    words, codes = [], []
    starts = range(0, len(mixture.elements), SAMPLED_AT_ONCE)
    for start in tqdm(starts, desc="sampling elements", disable=None, leave=False):
        elements = np.arange(start, min(start + SAMPLED_AT_ONCE, len(mixture.elements)))
        descriptors = mixture.describe(np.repeat(elements, SAMPLES), random)
        words.append(codebook.assign(descriptors, 1, threads=threads)[:, 0])
        codes.append(pack_signs(descriptors - codebook.centroids[words[-1]]))
    return np.concatenate(words), np.concatenate(codes)
