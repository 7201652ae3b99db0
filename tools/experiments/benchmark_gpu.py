"""Measures matching on a GPU: ``python tools/experiments/benchmark_gpu.py [--images 1000000] [--top 100] [--json]``.

Needs cuda-bindings and an NVIDIA GPU, no photos and no engine: the index is made of random codes, with lists as long as
those of real words are.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.benchmark_gpu")  # before the imports: howl.py says why

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codes import AsmkQuery, code_length
from runtime.asmk.gpu.matcher import DeviceFile, Matcher, Scoring, search_bytes
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.errors import DeviceError
from runtime.first_stage import MAX_IMAGES
from runtime.gpu import find_gpus
from runtime.gpu.device import Device
from runtime.io.cli import positive_int
from tools.environment import require_packages

D = 128
WORDS = 65_536
WORDS_AN_IMAGE = 435
WORDS_A_QUERY = 2006  # five for each of 700 descriptors, less those that coincide
ABSENT = 0.05  # of all words
SPREAD = 0.77  # of the logarithm of a word's popularity: a query's words are then 1.9 times as long as the average
SIMILARITY_TABLE = selectivity(D, AsmkParameters())
ENTRY_BYTES = 8 * code_length(D) + 2  # its code and its image

CHECKED_QUERIES = 16


@dataclass(frozen=True)
class Effort:
    """How much is measured and checked; a test takes less.

    Attributes:
        batches: how often so many queries are searched together.
        copies: that bandwidth is the median of.
        copied_bytes: of each; far more than any cache.
        checked_images, checked_file: of the small index that is compared with the CPU, and of each of its files.
        max_images: of an inverted file of the large index.
    """

    batches: Mapping[int, int] = field(default_factory=lambda: {1: 50, 8: 10, 64: 5})
    copies: int = 20
    copied_bytes: int = 1 << 30
    checked_images: int = 20_000
    checked_file: int = 8_192
    max_images: int = MAX_IMAGES


FULL = Effort()


@dataclass(frozen=True)
class Timing:
    """Batches of one size: medians, in milliseconds a query.

    Attributes:
        queries: of a batch.
        scoring: from words and codes on the GPU to the totals of all images.
        device: that, and finding the best.
        call: what a caller waits: uploading queries, all of that, and the sorted hits on the host.
    """

    queries: int
    scoring: float
    device: float
    call: float


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        gpu: its name.
        bandwidth: bytes a second, read and written, of a copy within the GPU's memory.
        images, entries, files: of the index.
        index_bytes: on the GPU.
        list_bytes: of the lists that one query asks for, on average; in a batch the cache may answer some.
        top: hits asked for.
        checked_queries, checked_images: queries whose hits were compared with the CPU's, among so many images.
        timings: one for every size of batch.
    """

    gpu: str
    bandwidth: float
    images: int
    entries: int
    files: int
    index_bytes: int
    list_bytes: float
    top: int
    checked_queries: int
    checked_images: int
    timings: Sequence[Timing]

    def share(self, timing: Timing) -> float:
        """Of the bandwidth that scoring reaches, if it read every list again."""
        return self.list_bytes / (timing.scoring / 1e3) / self.bandwidth


class Stopwatch:
    """Times a GPU by its own clock, while a long copy keeps it busy until the host has launched all of the work."""

    def __init__(self, device: Device, copied_bytes: int) -> None:
        self._device = device
        self._copied = device.zeros((copied_bytes,), np.uint8), device.zeros((copied_bytes,), np.uint8)

    def milliseconds(self, work: Callable[[], object]) -> float:
        """How long the GPU takes for ``work``, its caches holding nothing of use at the start."""
        self._copy()  # meanwhile the host launches all of `work`, so that no gap between launches is timed
        start = self._device.mark()
        work()
        return self._device.milliseconds(start, self._device.mark())

    def bandwidth(self, copies: int) -> float:
        """Bytes a second, read and written, of a copy within the GPU's memory: the median of several."""
        milliseconds = np.median([self.milliseconds(self._copy) for _ in range(copies)])
        return float(2 * self._copied[0].nbytes / (milliseconds / 1e3))

    def _copy(self) -> None:
        self._device.copy(*self._copied)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not options.json:
        require_packages("pandas", "tabulate")
    report = measure(Device("the benchmark"), options.images, options.top)
    print(as_json(report) if options.json else as_text(report))


def measure(device: Device, images: int, top: int, effort: Effort = FULL) -> Report:
    """Compares a small index with the CPU, then times a large one.

    Args:
        device: the GPU.
        images: of the large index.
        top: hits asked for.
        effort: how much is measured.

    Raises:
        DeviceError: the index does not fit the GPU's memory, or the GPU's hits are not the CPU's.
    """
    check_room(device, images, top, effort)
    scoring = Scoring(device, code_length(D))
    random = np.random.default_rng(0)
    popularity = draw_popularity(random)
    check_hits(scoring, popularity, top, effort)
    watch = Stopwatch(device, effort.copied_bytes)
    bandwidth = watch.bandwidth(effort.copies)

    files, lengths = [], np.zeros(WORDS, np.int64)
    for file in tqdm(
        make_files(random, popularity, images, effort.max_images), desc="making", unit="file", disable=None
    ):
        files.append(DeviceFile.upload(device, file))
        lengths[file.words] += np.diff(file.offsets)
    matcher = Matcher(scoring, files, [np.ones(len(file.word_counts), bool) for file in files])
    queries = [make_query(random, popularity) for _ in range(max(effort.batches))]
    list_bytes = float(np.mean([lengths[query.words].sum() for query in queries])) * ENTRY_BYTES
    return Report(
        gpu=str(find_gpus()[0]),
        bandwidth=bandwidth,
        images=matcher.images,
        entries=int(lengths.sum()),
        files=len(files),
        index_bytes=sum(file.bytes for file in files),
        list_bytes=list_bytes,
        top=top,
        checked_queries=CHECKED_QUERIES,
        checked_images=effort.checked_images,
        timings=[
            Timing(size, *time_batches(watch, matcher, queries, size, times, top))
            for size, times in effort.batches.items()
        ],
    )


def check_room(device: Device, images: int, top: int, effort: Effort) -> None:
    """Raises DeviceError if an index of so many images does not fit the free memory."""
    index = images * WORDS_AN_IMAGE * ENTRY_BYTES + -(-images // effort.max_images) * 8 * WORDS
    needed = 1.01 * index + max(effort.batches) * search_bytes(images, top) + 2 * effort.copied_bytes
    free = device.free_bytes()
    if needed > free:
        sizes = f"{needed / 1e9:.2f} GB of the GPU's memory, and {free / 1e9:.2f} GB are free"
        raise DeviceError(f"--images {images} needs {sizes}: ask for fewer")


def draw_popularity(random: np.random.Generator) -> NDArray[np.float64]:
    """How likely an entry is one of each word: float64 [WORDS], 1 in sum."""
    drawn = random.lognormal(0, SPREAD, WORDS)
    drawn[random.choice(WORDS, round(ABSENT * WORDS), replace=False)] = 0
    return drawn / drawn.sum()


def make_files(
    random: np.random.Generator, popularity: NDArray[np.float64], images: int, largest: int
) -> Iterator[InvertedFile]:
    """The inverted files of an index, one at a time: together they need not fit the host's memory."""
    return (make_file(random, popularity, min(largest, images - start)) for start in range(0, images, largest))


def make_file(random: np.random.Generator, popularity: NDArray[np.float64], images: int) -> InvertedFile:
    """An inverted file of random codes, its lists as long as the popularity of their words says."""
    lengths = np.minimum(random.poisson(popularity * images * WORDS_AN_IMAGE), images)
    words = np.flatnonzero(lengths)
    offsets = np.append(0, np.cumsum(lengths[words]))
    # The j-th of n images of a list lies in the j-th of n parts of all images: ascending, and no two alike.
    length = np.repeat(lengths[words], lengths[words])
    rank = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths[words])
    first, end = rank * images // length, (rank + 1) * images // length
    chosen = (first + random.random(len(rank)) * (end - first)).astype(np.uint16)
    return InvertedFile(
        words=words.astype(np.uint32),
        offsets=offsets.astype(np.int64),
        images=chosen,
        codes=random.integers(0, 2**64, (len(chosen), code_length(D)), np.uint64),
        word_counts=np.bincount(chosen, minlength=images).astype(np.uint32),
    )


def make_query(random: np.random.Generator, popularity: NDArray[np.float64]) -> AsmkQuery:
    """A query of random codes; it asks for popular words more often, as photos do."""
    words = np.sort(random.choice(WORDS, WORDS_A_QUERY, replace=False, p=popularity))
    codes = random.integers(0, 2**64, (len(words), code_length(D)), np.uint64)
    return AsmkQuery(words.astype(np.uint32), codes, None, SIMILARITY_TABLE)


def check_hits(scoring: Scoring, popularity: NDArray[np.float64], top: int, effort: Effort) -> None:
    """Raises DeviceError if hits, in a small index with removed images, are not those of the CPU to the bit."""
    random = np.random.default_rng(1)
    files = list(make_files(random, popularity, effort.checked_images, effort.checked_file))
    live = [random.random(len(file)) < 0.9 for file in files]
    queries = [make_query(random, popularity) for _ in range(CHECKED_QUERIES)]
    matcher = Matcher(scoring, [DeviceFile.upload(scoring.device, file) for file in files], live)
    for number, (query, hits) in enumerate(zip(queries, matcher.search(queries, top), strict=True)):
        if hits.tolist() != best_on_cpu(files, live, query, top):
            raise DeviceError(f"the GPU's hits of query {number} are not those of the CPU: do not trust it")


def best_on_cpu(
    files: Sequence[InvertedFile], live: Sequence[NDArray[np.bool_]], query: AsmkQuery, top: int
) -> list[tuple[float, int]]:
    """Scores and numbers of the best images of several files."""
    hits: list[tuple[float, int]] = []
    first = 0
    for file, alive in zip(files, live, strict=True):
        images, scores = file.best(query, alive, top)
        hits += zip(scores.tolist(), (images + first).tolist(), strict=True)
        first += len(file)
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:top]


def time_batches(
    watch: Stopwatch, matcher: Matcher, queries: Sequence[AsmkQuery], size: int, times: int, top: int
) -> tuple[float, float, float]:
    """Medians of ``time_batch`` for so many batches of one size, per query; the first batch is not timed."""
    turns = tqdm(range(times + 1), desc=f"{size} at once", unit="batch", disable=None)
    some = cycle(queries)
    taken = [time_batch(watch, matcher, list(islice(some, size)), top) for _ in turns]
    scoring, device, call = np.median(taken[1:], axis=0) / size
    return float(scoring), float(device), float(call)


def time_batch(
    watch: Stopwatch, matcher: Matcher, queries: Sequence[AsmkQuery], top: int
) -> tuple[float, float, float]:
    """Milliseconds of scoring on the GPU, of that and finding the best there, and of the whole call."""
    batch = matcher.load(queries)
    scoring = watch.milliseconds(lambda: matcher.totals(batch))
    device = watch.milliseconds(lambda: matcher.collect(batch, matcher.totals(batch), top))
    start = time.perf_counter()
    matcher.search(queries, top)
    return scoring, device, (time.perf_counter() - start) * 1e3


def as_text(report: Report) -> str:
    """The report for people."""
    import pandas  # late: `--help` and `--json` do without

    scanned = report.list_bytes / ENTRY_BYTES / report.entries
    rows = [
        {
            "queries at once": timing.queries,
            "scoring": f"{timing.scoring:.3f}",
            f"with the {report.top} best": f"{timing.device:.3f}",
            "whole call": f"{timing.call:.3f}",
            "of the bandwidth": f"{report.share(timing):.0%}",
        }
        for timing in report.timings
    ]
    return "\n".join(
        [
            f"{report.gpu}: copies {report.bandwidth / 1e12:.2f} TB/s within its memory, read and written",
            f"{report.images} images, {report.entries / 1e6:.1f} M entries in {report.files} files, "
            f"{report.index_bytes / 1e9:.2f} GB on the GPU",
            f"a query of {WORDS_A_QUERY} words scans {scanned:.2%} of them, {report.list_bytes / 1e6:.0f} MB",
            f"the {report.top} best of {report.checked_queries} queries among {report.checked_images} images are the "
            "CPU's, to the bit",
            "",
            "milliseconds a query, medians:",
            "",
            pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True),
        ]
    )


def as_json(report: Report) -> str:
    """The report for machines, shares of the bandwidth included."""
    timings = [asdict(timing) | {"share": report.share(timing)} for timing in report.timings]
    return json.dumps(asdict(report) | {"timings": timings}, indent=2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/benchmark_gpu.py",
        description="Times matching on a GPU, in an index made of random codes, and compares it with the CPU.",
    )
    parser.add_argument("--images", type=positive_int, default=1_000_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--top", type=positive_int, default=100, metavar="N", help="hits asked for (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines; times in milliseconds a query")
    return parser.parse_args(arguments)
