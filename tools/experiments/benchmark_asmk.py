"""Measures ASMK, against the package ``asmk`` where it is installed: ``python tools/experiments/benchmark_asmk.py``.

Both sides answer the same queries, in rounds in turn, in one process and thread; ratios are of the processor's time
there. The reference is measured twice: with faiss as it comes, and tuned (its matrix product always, OpenBLAS told of
AVX-512).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkQuery
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.index import Index
from runtime.io.cli import positive_int, run_command, whole_number
from tools.environment import describe_machine, load_pyplot
from tools.experiments.asmk_benchmark.making import MATCHES, Size, make_workload
from tools.experiments.asmk_benchmark.measuring import (
    CAN_DROP,
    cached_share,
    drop_from_page_cache,
    read_bandwidth,
    timed,
)
from tools.experiments.asmk_benchmark.ours import TOP, encode_query
from tools.experiments.asmk_benchmark.reference import HOW_TO_GET, MODULES
from tools.experiments.asmk_benchmark.report import draw, table
from tools.experiments.asmk_benchmark.workload import ENTRY_BYTES, Workload, image_id

PACKAGES = ("numpy", "faiss-cpu", "asmk")
PHOTO_BATCH = 65_536  # images of a commit
OPENINGS = 5
AS_IT_COMES, TUNED = "as it comes", "tuned"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TUNING = {"OPENBLAS_CORETYPE": "SkylakeX"}  # faiss's OpenBLAS takes newer processors for very old ones


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    against = [] if options.alone else [AS_IT_COMES, TUNED]
    missing = [module for module in MODULES if against and not _is_there(module)]
    if missing:
        raise HowlError(f"{missing[0]} is not installed; {HOW_TO_GET}; or measure howl alone with --alone")
    if options.plot:
        load_pyplot()  # sooner a missing package than a lost measurement
    with tempfile.TemporaryDirectory(prefix="howl-benchmark-", dir=options.folder) as folder:
        result = measure(Path(folder), options, against)
    print(table(result))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))
    if options.plot:
        draw(result, Path(options.plot))


def measure(folder: Path, options: argparse.Namespace, against: Sequence[str]) -> dict[str, Any]:
    """All that is reported, for every number of images."""
    sizes = sorted(options.images)
    size = Size(images=sizes[-1], queries=options.queries, words=options.words, seed=options.seed)
    workload = make_workload(folder / "workload", size, os.cpu_count() or 1)
    bandwidth = read_bandwidth()
    runs = [measure_size(folder, workload, images, against, first=images == sizes[0]) for images in sizes]
    return {"machine": describe_machine(PACKAGES), "words": options.words, "read_bandwidth": bandwidth, "runs": runs}


def measure_size(
    folder: Path, workload: Workload, images: int, against: Sequence[str], *, first: bool
) -> dict[str, Any]:
    """Building, opening and searching the first so many images; building the reference where it is the first size."""
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
    modes = {mode: ["--asmk", mode] for mode in against} or {"alone": []}
    for number, (mode, arguments) in enumerate(modes.items()):
        room = folder / f"built-{images}-{number}"
        room.mkdir()
        built_too = ["--build-in", str(room)] if first and against else []
        result[mode] = compare(workload, path, images, [*arguments, *built_too], tuned=mode == TUNED)
    cold, cached = cold_openings(path, queries)  # last: pages that were read again are small ones
    return {**result, "opening": {"warm": warm, "cold": cold, "cached": cached}}


def build(path: Path, workload: Workload, images: int) -> None:
    """An index of the first images, from their words and codes."""
    with closing(
        Index.create(path, fingerprint="benchmark", layout=Layout(ASMK, workload.centroids.shape[1]))
    ) as index:
        for start in range(0, images, PHOTO_BATCH):
            stop = min(start + PHOTO_BATCH, images)
            index.add([image_id(number) for number in range(start, stop)], workload.aggregated(start, stop))


def warm_openings(path: Path, queries: Sequence[AsmkQuery]) -> list[float]:
    """Seconds from an index on the disk, which the page cache holds, to its first answer."""
    open_and_ask(path, queries[0])
    return [timed(open_and_ask, path, query)[1].wall for query in queries]


def cold_openings(path: Path, queries: Sequence[AsmkQuery]) -> tuple[list[float], list[float]]:
    """The same where the page cache was emptied before, and what share of the index it held all the same."""
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


def compare(workload: Workload, index: Path, images: int, arguments: Sequence[str], *, tuned: bool) -> dict[str, Any]:
    """What ``comparison`` measures, in a new process that uses one thread where it is not told otherwise."""
    environment = {**os.environ, **ONE_THREAD, **(TUNING if tuned else {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [
        sys.executable,
        "-m",
        "tools.experiments.asmk_benchmark.comparison",
        str(workload.folder),
        str(index),
        str(images),
    ]
    done = subprocess.run([*command, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise HowlError(f"the measurement of {images} images ended with status {done.returncode}; its lines are above")
    return json.loads(done.stdout.splitlines()[-1])


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/benchmark_asmk.py",
        description="Measures ASMK side by side with the asmk package, on made images.",
    )
    parser.add_argument(
        "--images", type=positive_int, nargs="+", default=[10_000, 50_000, 200_000], metavar="N", help="sizes of index"
    )
    parser.add_argument("--queries", type=positive_int, default=30, help="default: 30")
    parser.add_argument("--words", type=positive_int, default=65_536, help="visual words; default: 65536")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the made images; default: 0")
    parser.add_argument("--alone", action="store_true", help="without the asmk package")
    parser.add_argument("--folder", metavar="DIR", help="for images and indexes, 5 GB at 200,000; default: temporary")
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    parser.add_argument("--plot", metavar="FILE", help="draw time and memory against the number of images, log-log")
    options = parser.parse_args(arguments)
    if min(options.images) < 2 * MATCHES * options.queries:
        parser.error(f"{options.queries} queries need {2 * MATCHES * options.queries} images or more")
    return options


if __name__ == "__main__":
    sys.exit(run_command(main))
