"""Measures re-ranking: ``python tools/experiments/benchmark_rerank.py [--images 50000] [--candidates 100]``.

Needs no photos and no engine: the index is made of random codes and places, with lists as long as those of real words
are, and the candidates share with the query as many words as photos of one place do.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.benchmark_rerank")  # before the imports: howl.py says why

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from runtime.asmk.codes import AsmkQuery
from runtime.asmk.inverted_file import InvertedFile
from runtime.io.cli import positive_int, program
from runtime.rerank import Candidates, Located, Query, Similarity, Spatial
from tools.environment import describe_machine
from tools.experiments.benchmark_gpu import draw_popularity, make_file, make_query
from tools.experiments.timing import timed

SHARED = 150  # words that a candidate shares with the query, of 435: as photos of one place do
AT_ONCE = 40  # candidates that get a word together
QUERIES, WARM_UP = 30, 3

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the processor, of every query.

    Attributes:
        scoring: all images, and the best of them.
        verifying: the candidates, by geometry.
        comparing: the candidates with each other, and spreading confidence among them.
        correspondences: of a candidate, on average.
        bytes_without, bytes_with: of the index, without and with geometry.
    """

    scoring: Sequence[float]
    verifying: Sequence[float]
    comparing: Sequence[float]
    correspondences: float
    bytes_without: int
    bytes_with: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    timing = measure(options.images, options.candidates)
    print(f"{describe_machine(('numpy',))['processor']}, one thread")
    sizes = f"{timing.bytes_with / 1e6:.0f} MB, {timing.bytes_without / 1e6:.0f} MB without geometry"
    print(f"{options.images} images: {sizes}")
    for name, taken in (
        ("scoring", timing.scoring),
        ("spatial", timing.verifying),
        ("similarity", timing.comparing),
    ):
        low, median, high = np.percentile(taken, [5, 50, 95])
        print(f"{name:10s} {median:.2f} ms of the processor ({low:.2f}–{high:.2f})")
    print(f"{options.candidates} candidates of {timing.correspondences:.0f} correspondences each")


def measure(images: int, candidates: int, queries: int = QUERIES) -> Timing:
    """Times queries that differ, each with candidates of its own.

    Args:
        images: of the index, 65,536 at most.
        candidates: that are re-ranked for each query.
        queries: how many are timed.
    """
    random = np.random.default_rng(0)
    popularity = draw_popularity(random)
    file = make_file(random, popularity, images)
    file = replace(file, geometry=random.integers(0, 2**32, file.entries, np.uint32))
    live = np.ones(len(file), bool)
    scoring, verifying, comparing, found = [], [], [], 0.0
    for number in range(WARM_UP + queries):
        query = make_query(random, popularity)
        query = query._replace(geometry=random.integers(0, 2**32, len(query.words), np.uint32))
        planted, located = plant(random, file, query, candidates)
        _, first = timed(planted.best, query, live, candidates)
        verified, second = timed(Spatial().verify, query, [located], candidates)
        scores = planted.scores(query)[located.rows]
        _, third = timed(Similarity().rerank, Query("", query, {}), Candidates(scores, [located], [], []))
        if number >= WARM_UP:
            scoring.append(first)
            verifying.append(second)
            comparing.append(third)
            found += float(verified.counts.mean()) / queries
    without = sum(array.nbytes for name, array in file.arrays().items() if name != "geometry.npy")
    with_geometry = sum(array.nbytes for array in file.arrays().values())
    return Timing(scoring, verifying, comparing, found, without, with_geometry)


def plant(
    random: np.random.Generator, file: InvertedFile, query: AsmkQuery, candidates: int
) -> tuple[InvertedFile, Located]:
    """The file with the query's own codes in entries of some images, and where these images are."""
    images, codes = file.images.copy(), file.codes.copy()
    chosen = np.sort(random.choice(len(file), candidates, replace=False))
    rows = np.searchsorted(file.words, query.words)
    there = np.flatnonzero(
        (rows < len(file.words)) & (file.words[np.minimum(rows, len(file.words) - 1)] == query.words)
    )
    for word in random.choice(there, -(-SHARED * candidates // min(AT_ONCE, candidates))).tolist():
        begin, end = file.offsets[rows[word]], file.offsets[rows[word] + 1]
        own = images[begin:end]
        others = np.setdiff1d(chosen, own)
        taken = min(AT_ONCE, len(others), int(end - begin))
        at = random.choice(int(end - begin), taken, replace=False)
        own[at] = random.choice(others, taken, replace=False)
        codes[begin + at] = query.codes[word]
        own.sort()
    planted = replace(file, images=images, codes=codes)
    return planted, Located(planted, chosen.astype(np.int64), np.arange(candidates))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/experiments/benchmark_rerank.py"), description="Times the re-ranking of candidates."
    )
    parser.add_argument("--images", type=positive_int, default=50_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--candidates", type=positive_int, default=100, metavar="N", help="default: %(default)s")
    return parser.parse_args(arguments)
