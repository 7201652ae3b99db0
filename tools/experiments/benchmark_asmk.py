"""Measures ASMK, against the package ``asmk`` if it is installed: ``python tools/experiments/benchmark_asmk.py``.

Both sides answer the same queries, in rounds in turn, in one process and thread; ratios are of the processor's time
there. The reference is measured twice: with faiss as it comes, and tuned (its matrix product always, OpenBLAS told of
AVX-512).
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.benchmark_asmk")  # before the imports: howl.py says why

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkQuery
from runtime.cores import available_cores
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.index import Index
from runtime.io.cli import positive_int, whole_number
from tools.environment import describe_machine, require_packages
from tools.experiments.asmk_benchmark.comparison import AS_IT_COMES, TUNED
from tools.experiments.asmk_benchmark.measuring import (
    CAN_DROP,
    cached_share,
    drop_from_page_cache,
    read_bandwidth,
    timed,
)
from tools.experiments.asmk_benchmark.report import ALONE, draw, table
from tools.experiments.asmk_benchmark.sides import HOW_TO_GET, MODULES, TOP, encode_query
from tools.experiments.asmk_benchmark.workload import ENTRY_BYTES, MATCHES, Size, Workload, image_id, make_workload

PACKAGES = ("numpy", "faiss-cpu", "asmk")
COMMIT_SIZE = 65_536  # images
OPENINGS = 5
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TUNING = {"OPENBLAS_CORETYPE": "SkylakeX"}  # faiss's OpenBLAS mistakes newer processors for very old ones


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("pandas", "tabulate", *(["matplotlib"] if options.plot else []))
    with tempfile.TemporaryDirectory(prefix="howl-benchmark-", dir=options.folder) as folder:
        result = measure(
            Path(folder),
            options.images,
            queries=options.queries,
            words=options.words,
            seed=options.seed,
            against=() if options.alone else (AS_IT_COMES, TUNED),
        )
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.plot:
        draw(result, options.plot)


def measure(
    folder: Path,
    images: Sequence[int],
    *,
    queries: int,
    words: int,
    seed: int = 0,
    against: Sequence[str] = (AS_IT_COMES, TUNED),
    modules: Sequence[str] = MODULES,
) -> dict[str, Any]:
    """All that is reported, for every number of images.

    Args:
        folder: to fill with images and indexes, 5 GB at 200,000 images.
        images: sizes of an index.
        queries: that are asked.
        words: of the codebook.
        seed: of the synthetic images.
        against: how faiss runs for the reference; none to measure howl alone.
        modules: that the reference needs.

    Raises:
        DependencyError: the reference is not installed.
        HowlError: a measurement failed.
    """
    if against:
        require_packages(*modules, hint=f"{HOW_TO_GET}; or measure howl alone with --alone")
    sizes = sorted(images)
    size = Size(images=sizes[-1], queries=queries, words=words, seed=seed)
    workload = make_workload(folder / "workload", size, available_cores())
    bandwidth = read_bandwidth()
    runs = [measure_size(folder, workload, number, against, first=number == sizes[0]) for number in sizes]
    return {"machine": describe_machine(PACKAGES), "words": words, "read_bandwidth": bandwidth, "runs": runs}


def measure_size(
    folder: Path, workload: Workload, images: int, against: Sequence[str], *, first: bool
) -> dict[str, Any]:
    """Building, opening and searching the first so many images; building the reference if it is the first size."""
    path = folder / f"{images}.index"
    _, built = timed(build, path, workload, images)
    entries = workload.entries(images)
    result: dict[str, Any] = {
        "images": images,
        "entries": entries,
        "lists": workload.statistics(images),
        "add_wall": built.wall / images,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "payload_bytes": entries * ENTRY_BYTES,
    }
    codebook = Codebook(workload.centroids)
    queries = [encode_query(descriptors, codebook) for descriptors in workload.queries[:OPENINGS]]
    warm = warm_openings(path, queries)
    if not against:
        result[ALONE] = run_comparison(workload, path, images)
    for number, mode in enumerate(against):
        build_in = folder / f"built-{images}" if first and number == 0 else None
        result[mode] = run_comparison(workload, path, images, mode, build_in)
    cold, cached = cold_openings(path, queries)  # last: pages that were read again are small ones
    return {**result, "opening": {"warm": warm, "cold": cold, "cached": cached}}


def build(path: Path, workload: Workload, images: int) -> None:
    """An index of the first images, from their words and codes."""
    with closing(
        Index.create(path, fingerprint="benchmark", layout=Layout(ASMK, workload.centroids.shape[1]))
    ) as index:
        for start in range(0, images, COMMIT_SIZE):
            stop = min(start + COMMIT_SIZE, images)
            index.add([image_id(number) for number in range(start, stop)], workload.aggregated(start, stop))


def warm_openings(path: Path, queries: Sequence[AsmkQuery]) -> list[float]:
    """Seconds from an index on the disk, held by the page cache, to its first answer."""
    open_and_ask(path, queries[0])
    return [timed(open_and_ask, path, query)[1].wall for query in queries]


def cold_openings(path: Path, queries: Sequence[AsmkQuery]) -> tuple[list[float], list[float]]:
    """The same after the page cache was emptied, and what share of the index it held all the same."""
    files = [file for file in path.rglob("*") if file.is_file()]
    seconds, cached = [], []
    for query in queries if CAN_DROP else []:
        drop_from_page_cache(files)
        cached.append(cached_share(files))
        seconds.append(timed(open_and_ask, path, query)[1].wall)
    return seconds, cached


def open_and_ask(path: Path, query: AsmkQuery) -> None:
    """Opens an index for one query."""
    with closing(Index(path)) as index:
        index.search(query, TOP)


def run_comparison(
    workload: Workload, index: Path, images: int, mode: str | None = None, build_in: Path | None = None
) -> dict[str, Any]:
    """``comparison.compare_sides`` in a new process, of one thread if not told otherwise.

    The one place in which a command starts another Python: the libraries read this environment when they are loaded.

    Args:
        workload: what is asked and searched.
        index: howl's, of the first images.
        images: how many these are.
        mode: how faiss runs; None for howl alone.
        build_in: a new folder, to measure building too.

    Raises:
        HowlError: the process failed.
    """
    environment = {**os.environ, **ONE_THREAD, **(TUNING if mode == TUNED else {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "tools.experiments.asmk_benchmark.comparison", workload.folder, index, str(images)]
    command += ["--asmk", mode] if mode else []
    if build_in:
        build_in.mkdir()
        command += ["--build-in", build_in]
    done = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise HowlError(f"the measurement of {images} images ended with status {done.returncode}; its lines are above")
    return json.loads(done.stdout.splitlines()[-1])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/benchmark_asmk.py",
        description="Measures ASMK side by side with the asmk package, on synthetic images.",
    )
    parser.add_argument(
        "--images", type=positive_int, nargs="+", default=[10_000, 50_000, 200_000], metavar="N", help="sizes of index"
    )
    parser.add_argument("--queries", type=positive_int, default=30, help="(%(default)s)")
    parser.add_argument("--words", type=positive_int, default=65_536, help="visual words (%(default)s)")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the synthetic images (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="without the asmk package")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for 5 GB at 200,000 images; default: temporary")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw time and memory by number of images")
    options = parser.parse_args(arguments)
    if min(options.images) < 2 * MATCHES * options.queries:
        parser.error(f"{options.queries} queries need {2 * MATCHES * options.queries} images or more")
    return options
