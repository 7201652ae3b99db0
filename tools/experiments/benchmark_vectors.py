"""Measures the exact search of global descriptors: ``python tools/experiments/benchmark_vectors.py [--images N]``.

Needs no photos and no engine: the vectors are random. An index on the disk and, where faiss is installed, its exact
indexes in memory answer the same queries in turn, in one process, on one thread.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.benchmark_vectors")  # before the imports: howl.py says why

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.first_stage import MAX_IMAGES, VECTORS, Layout
from runtime.index import Index
from runtime.io.cli import positive_int, whole_number
from tools.environment import describe_machine, is_installed, require_packages
from tools.experiments.timing import spread, timed

PACKAGES = ("numpy", "faiss-cpu")
QUERIES = 21  # the first of each side warms up
TOP = 100
Side = Callable[[NDArray[np.float32]], NDArray[np.int64]]  # numbers of the best images of a query, best first


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("pandas", "tabulate")
    with tempfile.TemporaryDirectory(prefix="howl-benchmark-", dir=options.folder) as folder:
        result = measure(Path(folder), options.images, options.dimensions, seed=options.seed)
    print(json.dumps(result, indent=1) if options.json else table(result))


def measure(folder: Path, images: int, dimensions: int, *, seed: int = 0) -> dict[str, Any]:
    """Milliseconds of the processor of each query, by side, and how many of its answers are howl's.

    Args:
        folder: in which the index is built, 2 · dimensions bytes an image.
        images: in it.
        dimensions: of a vector.
        seed: of the vectors and queries.
    """
    random = np.random.default_rng(seed)
    queries = unit_vectors(random, QUERIES, dimensions)
    with closing(Index.create(folder / "index", fingerprint="benchmark", layout=Layout(VECTORS, dimensions))) as index:
        others = faiss_indexes(dimensions) if is_installed("faiss") else {}
        for start in tqdm(range(0, images, MAX_IMAGES), desc="building", unit="segment", disable=None):
            vectors = unit_vectors(random, min(MAX_IMAGES, images - start), dimensions).astype(np.float16)
            index.add([str(start + number) for number in range(len(vectors))], list(vectors))
            for other in others.values():
                other.add(vectors.astype(np.float32))

        sides: dict[str, Side] = {"howl": partial(answers, index)}
        sides |= {name: partial(faiss_answers, other) for name, other in others.items()}
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in sides}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for query in queries:
            for name, side in sides.items():
                answer, milliseconds = timed(side, query)
                found[name].append(answer)
                times[name].append(milliseconds)
    return {
        "machine": describe_machine(PACKAGES),
        "images": images,
        "dimensions": dimensions,
        "milliseconds": {name: each[1:] for name, each in times.items()},
        "same": {name: float(np.mean(np.array(each) == np.array(found["howl"]))) for name, each in found.items()},
    }


def answers(index: Index, query: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.array([int(hit.id) for hit in index.search(query, TOP)])


def faiss_answers(index: Any, query: NDArray[np.float32]) -> NDArray[np.int64]:
    return index.search(query[None], TOP)[1][0]


def faiss_indexes(dimensions: int) -> dict[str, Any]:
    """faiss's exact indexes, empty: of numbers of four bytes, and of two, as howl's."""
    import faiss

    faiss.omp_set_num_threads(1)
    half = faiss.ScalarQuantizer.QT_fp16
    return {
        "faiss, float32": faiss.IndexFlatIP(dimensions),
        "faiss, float16": faiss.IndexScalarQuantizer(dimensions, half, faiss.METRIC_INNER_PRODUCT),
    }


def unit_vectors(random: np.random.Generator, number: int, dimensions: int) -> NDArray[np.float32]:
    """Random directions, float32 [number, dimensions]."""
    vectors = random.standard_normal((number, dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def table(result: dict[str, Any]) -> str:
    """Markdown: the median and the quartiles of each side's milliseconds, and the share of answers that are howl's."""
    import pandas  # late: `--help` does without

    rows = []
    for name, milliseconds in result["milliseconds"].items():
        same = f"{100 * result['same'][name]:.1f} %"
        rows.append({"": name, "ms a query": spread(milliseconds), "same answers": same})
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    title = f"{result['images']:,} vectors of {result['dimensions']}, best {TOP}; {about}"
    return f"{title}\n\n{pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/benchmark_vectors.py",
        description="Measures the exact search of global descriptors on one thread, beside faiss if it is installed.",
    )
    parser.add_argument("--images", type=positive_int, default=1_000_000, metavar="N", help="(%(default)s)")
    parser.add_argument("--dimensions", type=positive_int, default=512, metavar="D", help="(%(default)s)")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the random vectors (%(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the index, 2 · N · D bytes; default: temporary")
    parser.add_argument("--json", action="store_true", help="print all measurements")
    return parser.parse_args(arguments)
