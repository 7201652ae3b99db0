"""Servers over the small engine: in this process without a socket, and in a thread with one."""

import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime import Retriever

if TYPE_CHECKING:  # each module of tests skips itself where the extra is missing; this one must load all the same
    from fastapi.testclient import TestClient

    from .servers import Lines


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
def serve(retriever: Retriever, root: Path) -> "Iterator[Callable[..., TestClient]]":
    """``serve(**options)``: a client of a server of that retriever, which shows the photos."""
    from fastapi.testclient import TestClient

    from runtime.service.app import create_app
    from runtime.service.options import ServiceOptions

    with ExitStack() as stack:

        def start(**options: object) -> "TestClient":
            settings = ServiceOptions(**({"photos": root, "workers": 2} | options))  # type: ignore[arg-type]
            return stack.enter_context(TestClient(create_app(retriever, settings), raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(serve: "Callable[..., TestClient]") -> "TestClient":
    return serve()


@pytest.fixture
def log() -> "Iterator[Lines]":
    """What servers log, from now on."""
    from .servers import Lines

    logger, lines = logging.getLogger("howl.serve"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


@pytest.fixture
def patience() -> float:
    """Seconds that a request to the server with a socket may take."""
    return 20.0


@pytest.fixture
def address(retriever: Retriever, root: Path, patience: float) -> Iterator[str]:
    """Of a server with a socket."""
    from runtime.service.options import ServiceOptions

    from .servers import running

    with running(retriever, ServiceOptions(photos=root, workers=2, timeout=patience, max_body=1_000_000)) as url:
        yield url


@pytest.fixture
def connect(address: str) -> Callable[[], socket.socket]:
    """Opens a connection to that server."""

    def open_one() -> socket.socket:
        host, _, port = address.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=15)

    return open_one
