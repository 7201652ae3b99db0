"""Loads a server: ``python tools/experiments/benchmark_serve.py engine.onnx --index DIR PHOTOS... [--requests 20000]``.

The server is a process of its own; callers are threads of this one, each of which sends its next query as soon as the
last is answered. In turn with it, in rounds, the same queries are searched in this process, which has no callers to
share the cores with: by ``Retriever.search_many``, and one by one, which is all that a single caller can have.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.benchmark_serve")  # before the imports: howl.py says why

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from itertools import count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from runtime.errors import ServiceError
from runtime.io.cli import add_engine_options, positive_int, program
from runtime.io.finding import find_photos
from runtime.io.image import read_photo
from runtime.retriever import Retriever
from runtime.service.app import create_app
from runtime.service.options import ServiceOptions
from runtime.service.server import bind, serve
from tools.environment import describe_machine

CALLERS = (1, 8, 64)
QUERIES, WARM_UP = 200, 8  # of each number of callers, in a round
ROUNDS = 5
REQUESTS, ENDURING = 20_000, 8  # of the endurance run, and its callers
SAMPLES = 20  # of the memory
EVERY_BAD = 4  # one in so many requests of the endurance run is bad
PATIENCE = 120.0  # seconds
MEGABYTE = 1e6
BAD = (  # path, body, and the status that it must have
    ("/search", b"", 400),
    ("/search", b"no photo at all", 400),
    ("/search", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0", 400),  # 65535 × 65535 pixels
    ("/search?top=0", b"x", 400),
    ("/search?rerank=magic", b"x", 400),
    ("/photos/..%2F..%2Fetc%2Fpasswd/matches", b"x", 404),
    ("/nowhere", b"x", 404),
)


@dataclass(frozen=True)
class Load:
    """What so many callers at a time got.

    Attributes:
        callers: at a time.
        seconds: of all queries together.
        milliseconds: float64 [n], of each.
    """

    callers: int
    seconds: float
    milliseconds: np.ndarray

    @property
    def throughput(self) -> float:
        """Queries a second."""
        return len(self.milliseconds) / self.seconds


@dataclass(frozen=True)
class Endurance:
    """What many requests, bad ones among them, left behind.

    Attributes:
        statuses: how often each came.
        megabytes: of the server's resident memory, from the first sample to the last.
    """

    statuses: Counter[int]
    megabytes: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    photos = [read_photo(path) for path in islice(find_photos(options.photos), options.queries)]
    engine, index = Path(options.engine), Path(options.index)
    print(
        ", ".join(f"{name} {value}" for name, value in describe_machine(("onnxruntime", "fastapi", "uvicorn")).items())
    )
    with (
        Retriever(engine, index, device=options.device, threads=options.threads) as retriever,
        server(engine, index, options.workers, options.device, options.threads) as (host, port, process),
    ):
        for callers in CALLERS:
            beside = partial(one_by_one, retriever) if callers == 1 else retriever.search_many
            rounds = measure_rounds(host, port, photos, callers, options.queries, beside)
            print(describe_rounds(callers, rounds))
        if options.requests:
            endured = endure(host, port, process, photos, options.requests)
            print(
                f"{options.requests} requests: " + ", ".join(f"{n}× {s}" for s, n in sorted(endured.statuses.items()))
            )
            print("memory, MB: " + " ".join(f"{size:.0f}" for size in endured.megabytes))


def measure_rounds(
    host: str, port: int, photos: Sequence[bytes], callers: int, queries: int, beside: Callable[[list[bytes]], object]
) -> list[tuple[Load, float]]:
    """What so many callers got, and the queries a second of the same work in this process, round by round."""
    rounds = []
    beside(list(islice(endless(photos), WARM_UP)))
    for _ in range(ROUNDS):
        asked = list(islice(endless(photos), queries))
        begin = time.perf_counter()
        beside(asked)
        here = queries / (time.perf_counter() - begin)
        rounds.append((measure_load(host, port, photos, callers, queries), here))
    return rounds


def one_by_one(retriever: Retriever, photos: Sequence[bytes]) -> None:
    for photo in photos:
        retriever.search(photo)


def describe_rounds(callers: int, rounds: Sequence[tuple[Load, float]]) -> str:
    """Throughput, its ratio to that without a server (median and range of the rounds), and latency of all queries."""
    ratios = [load.throughput / here for load, here in rounds]
    middle, high = np.percentile(np.concatenate([load.milliseconds for load, _ in rounds]), [50, 99])
    return (
        f"{callers:3d} callers: {np.median([load.throughput for load, _ in rounds]):.1f} queries a second, "
        f"{np.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) of "
        f"{'search one by one' if callers == 1 else 'search_many'}; median {middle:.0f} ms, p99 {high:.0f} ms"
    )


@contextmanager
def server(
    engine: Path, index: Path, workers: int, device: str | None, threads: int | None
) -> Iterator[tuple[str, int, int]]:
    """A server in a process of its own: its host, port and process number. All callers find a place in its queue."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=run_server, args=(engine, index, workers, device, threads, there), daemon=True)
    process.start()
    try:
        if not here.poll(PATIENCE):
            raise ServiceError(f"{engine}: its server did not start within {PATIENCE:g} s")
        address = urlsplit(here.recv())
        yield str(address.hostname), int(address.port or 0), int(process.pid or 0)
    finally:
        process.terminate()
        process.join(PATIENCE)


def run_server(
    engine: Path, index: Path, workers: int, device: str | None, threads: int | None, told: Connection
) -> None:
    """The server's process; the address is sent when it listens."""
    options = ServiceOptions(workers=workers, queue=max(CALLERS), timeout=PATIENCE, may_write=False)
    with Retriever(engine, index, device=device, threads=threads) as retriever:
        serve(create_app(retriever, options), bind("127.0.0.1", 0), options.timeout, told.send)


def measure_load(host: str, port: int, photos: Sequence[bytes], callers: int, queries: int) -> Load:
    """So many queries in all, over the photos in turn, by so many callers at a time."""
    asked = endless(photos)
    lock = Lock()

    def call(number: int) -> list[float]:
        taken = []
        connection = HTTPConnection(host, port, timeout=PATIENCE)
        for _ in range(number):
            with lock:
                photo = next(asked)
            begin = time.perf_counter()
            status = ask(connection, "/search", photo)
            taken.append(1e3 * (time.perf_counter() - begin))
            if status != 200:
                raise ServiceError(f"{host}:{port}: a query got status {status}")
        connection.close()
        return taken

    shares = [len(share) for share in np.array_split(np.arange(max(queries, 2 * callers)), callers)]
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, [1] * min(callers, WARM_UP)))
        begin = time.perf_counter()
        taken = list(pool.map(call, shares))
        return Load(callers, time.perf_counter() - begin, np.concatenate(taken))


def endure(host: str, port: int, process: int, photos: Sequence[bytes], requests: int) -> Endurance:
    """Sends requests, one in EVERY_BAD of them bad, and looks at the server's memory now and then.

    Raises:
        ServiceError: a request got another status than it must.
    """
    asked, lock, numbers = endless(photos), Lock(), count()
    statuses: Counter[int] = Counter()
    megabytes = [resident(process)]
    every = max(1, requests // SAMPLES)

    def call(_: int) -> None:
        connection = HTTPConnection(host, port, timeout=PATIENCE)
        while True:
            with lock:
                if (number := next(numbers)) >= requests:
                    break
                if number % EVERY_BAD == 0:
                    path, body, expected = BAD[number // EVERY_BAD % len(BAD)]
                else:
                    path, body, expected = "/search", next(asked), 200
            status = ask(connection, path, body)
            if status != expected:
                raise ServiceError(f"{host}:{port}: {path} got status {status}, not {expected}")
            with lock:
                statuses[status] += 1
                bar.update()
                if (number + 1) % every == 0:
                    megabytes.append(resident(process))
        connection.close()

    with (
        tqdm(total=requests, desc="enduring", unit="request", disable=None) as bar,
        ThreadPoolExecutor(ENDURING) as pool,
    ):
        list(pool.map(call, range(ENDURING)))
    return Endurance(statuses, megabytes)


def ask(connection: HTTPConnection, path: str, body: bytes) -> int:
    """Sends a request and reads the answer; its status."""
    connection.request("POST", path, body)
    response = connection.getresponse()
    response.read()
    return response.status


def resident(process: int) -> float:
    """Megabytes of a process that are in RAM (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def endless(photos: Sequence[bytes]) -> Iterator[bytes]:
    """The photos, over and over."""
    while True:
        yield from photos


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/experiments/benchmark_serve.py"),
        description="Measures howl serve under load: throughput beside search_many, latency, and memory over time.",
    )
    parser.add_argument("engine", metavar="ENGINE", help="engine.onnx, engine.plan or engine.pt2")
    parser.add_argument("photos", metavar="PHOTOS", nargs="+", help="queries: files, or folders")
    parser.add_argument("--index", metavar="DIR", required=True, help="that is searched; it is not changed")
    parser.add_argument(
        "--workers", type=positive_int, default=ServiceOptions.workers, metavar="N", help="of the server (%(default)s)"
    )
    parser.add_argument(
        "--queries", type=positive_int, default=QUERIES, metavar="N", help="of each number of callers (%(default)s)"
    )
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, metavar="N", help="of the endurance run; 0 for none (%(default)s)"
    )
    add_engine_options(parser, searches=False)
    return parser.parse_args(arguments)
