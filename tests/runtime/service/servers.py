"""Servers with a socket, in a thread of this process, and what they log. Needs the extra `serve`."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime import Retriever
from runtime.service.app import create_app
from runtime.service.options import ServiceOptions
from runtime.service.server import bind, make_server, url_of


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
