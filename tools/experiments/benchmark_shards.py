"""Measures an index with 1, 2 and 4 shards on a Ray cluster: ``python tools/experiments/benchmark_shards.py``.

Beside it stands the same index without shards, in this process and in as many threads as there are callers. Queries are
encoded before: what is measured is the search, with what it costs to send a query to other processes and to merge what
they answer. Answers are compared with those without shards.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.benchmark_shards")  # before the imports: howl.py says why

import argparse
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from runtime.asmk.codebook import Codebook
from runtime.cores import available_cores
from runtime.first_stage import ASMK, Layout
from runtime.index import Index
from runtime.index.shards import Shards
from runtime.io.cli import positive_int, whole_number
from runtime.sharded.cluster import Cluster, connect
from runtime.sharded.index import ShardedIndex
from tools.environment import describe_machine, require_packages
from tools.experiments.asmk_benchmark.sides import TOP, encode_query
from tools.experiments.asmk_benchmark.workload import MATCHES, Size, Workload, image_id, make_workload
from tools.experiments.benchmark_asmk import COMMIT_SIZE, build
from tools.experiments.timing import spread

CALLERS = 4
ROUNDS = 5  # of all queries, the first of which warms up
FINGERPRINT = "benchmark"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("pandas", "tabulate", "ray")
    import pandas

    connect(options.ray)
    with tempfile.TemporaryDirectory(prefix="howl-benchmark-", dir=options.folder) as folder:
        size = Size(images=options.images, queries=options.queries, words=options.words, seed=options.seed)
        workload = make_workload(Path(folder) / "workload", size, available_cores())
        rows = measure(Path(folder), workload, options.images, options.shards)
    print(", ".join(f"{name} {value}" for name, value in describe_machine(("numpy", "ray")).items()))
    print()
    print(pandas.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True))


def measure(folder: Path, workload: Workload, images: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """A row for the index without shards, and one for each number of shards.

    Args:
        folder: to fill with indexes.
        workload: whose images are searched.
        images: how many.
        counts: numbers of shards.
    """
    codebook = Codebook(workload.centroids)
    queries = [encode_query(descriptors, codebook) for descriptors in workload.queries]
    build(folder / "whole", workload, images)
    with closing(Index(folder / "whole")) as whole:
        expected = [whole.search(query, TOP) for query in queries]
        rows = [{"index": "without shards, this process", **timings(whole, queries)}]
    for count in counts:
        shards = build_shards(Shards(folder / f"{count} shards", count), workload, images)
        with sharded(shards) as index:
            found = [index.search(query, TOP) for query in queries]
            same = sum(ours == theirs for ours, theirs in zip(found, expected, strict=True))
            sent = [len(pickle.dumps(query)) for query in queries]
            rows.append(
                {
                    "index": f"{count} shard" + "s" * (count > 1),
                    **timings(index, queries),
                    "sent, kB a query": f"{count * np.mean(sent) / 1e3:.0f}",
                    "same answers": f"{same} of {len(queries)}",
                }
            )
    return rows


def build_shards(shards: Shards, workload: Workload, images: int) -> Shards:
    """An index with shards of the first images. Each shard gets as many commits as the index without shards."""
    layout = Layout(ASMK, workload.centroids.shape[1])
    for shard in range(shards.count):
        Index.create(shards.place(shard), fingerprint=FINGERPRINT, layout=layout).close()
    for start in range(0, images, COMMIT_SIZE):
        stop = min(start + COMMIT_SIZE, images)
        ids, encoded = [image_id(number) for number in range(start, stop)], workload.aggregated(start, stop)
        for shard, own in shards.divided(ids).items():
            with closing(Index(shards.place(shard))) as index:
                index.add([ids[place] for place in own], [encoded[place] for place in own])
    shards.write()
    return shards


@contextmanager
def sharded(shards: Shards) -> Iterator[ShardedIndex]:
    """The shards of an index, opened."""
    with closing(ShardedIndex(Cluster(shards, timeout=60.0, wait=1.0))) as index:
        yield index


def timings(index: Any, queries: Sequence[Any]) -> dict[str, str]:
    """Milliseconds of a query for one caller, median and quartiles, and queries a second for several at a time."""
    taken: list[list[float]] = []
    for _ in range(ROUNDS):
        taken.append([])
        for query in queries:
            begin = time.perf_counter()
            index.search(query, TOP)
            taken[-1].append(1e3 * (time.perf_counter() - begin))
    asked = list(islice(cycle(queries), ROUNDS * len(queries)))
    with ThreadPoolExecutor(CALLERS) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda query: index.search(query, TOP), asked))
        throughput = len(asked) / (time.perf_counter() - begin)
    return {
        "ms a query, 1 caller": spread(np.array(taken[1:])),
        f"queries a second, {CALLERS} callers": f"{throughput:.0f}",
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/benchmark_shards.py",
        description="Measures searches in an index with shards on a Ray cluster, on synthetic images.",
    )
    parser.add_argument("--images", type=positive_int, default=200_000, metavar="N", help="(%(default)s)")
    parser.add_argument("--shards", type=positive_int, nargs="+", default=[1, 2, 4], metavar="N", help="(%(default)s)")
    parser.add_argument("--queries", type=positive_int, default=30, help="(%(default)s)")
    parser.add_argument("--words", type=positive_int, default=65_536, help="visual words (%(default)s)")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the synthetic images (%(default)s)")
    parser.add_argument("--ray", metavar="ADDRESS", help="of a cluster; default: the one that is found, or a new one")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for 9 GB at 200,000 images; default: temporary")
    options = parser.parse_args(arguments)
    if options.images < 2 * MATCHES * options.queries:
        parser.error(f"{options.queries} queries need {2 * MATCHES * options.queries} images or more")
    return options
