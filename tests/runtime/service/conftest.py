"""Servers over the small engine: in this process without a socket, and in a thread with one."""

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from fastapi.testclient import TestClient

from runtime import Retriever
from runtime.service.app import create_app
from runtime.service.options import ServiceOptions
from runtime.service.server import bind, make_server, url_of


@pytest.fixture
def root(photos: list[str], tmp_path: Path) -> Path:
    """A folder of the test's own with the six photos; their ids are photo0.png to photo5.png."""
    return Path(shutil.copytree(Path(photos[0]).parent, tmp_path / "root"))


@pytest.fixture
def retriever(engine: Path, root: Path, tmp_path: Path) -> Iterator[Retriever]:
    """With an index of the first four photos."""
    with Retriever(engine, tmp_path / "index", root=root, device="cpu", threads=1, max_pixels=10**6) as retriever:
        retriever.add([root / f"photo{i}.png" for i in range(4)])
        yield retriever


@pytest.fixture
def serve(retriever: Retriever, root: Path) -> Iterator[Callable[..., TestClient]]:
    """``serve(**options)``: a client of a server of that retriever, which shows the photos."""
    with ExitStack() as stack:

        def start(**options: object) -> TestClient:
            settings = ServiceOptions(**({"photos": root, "workers": 2} | options))  # type: ignore[arg-type]
            return stack.enter_context(TestClient(create_app(retriever, settings), raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def wait(self) -> list[str]:
        """All lines, once there is one: it may come after the answer."""
        deadline = time.monotonic() + 10
        while not self.lines and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.lines


@pytest.fixture
def log() -> Iterator[Lines]:
    """What servers log, from now on."""
    logger, lines = logging.getLogger("howl.serve"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


@contextmanager
def running(retriever: Retriever, options: ServiceOptions) -> Iterator[str]:
    """A server with a socket, in a thread; gives its address."""
    listening = bind("127.0.0.1", 0)
    server = make_server(create_app(retriever, options), options.timeout)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield url_of(listening).rstrip("/")
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture
def address(retriever: Retriever, root: Path) -> Iterator[str]:
    """Of a server with a socket, whose requests have a second."""
    with running(retriever, ServiceOptions(photos=root, workers=2, timeout=1, max_body=1_000_000)) as url:
        yield url


@pytest.fixture
def connect(address: str) -> Callable[[], socket.socket]:
    """Opens a connection to that server."""

    def open_one() -> socket.socket:
        host, _, port = address.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=15)

    return open_one
