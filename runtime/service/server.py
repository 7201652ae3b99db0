"""The server: a socket, the application, and an end at which requests that were accepted are answered."""

import os
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from runtime.errors import ServiceError, UsageError
from runtime.service.guard import quiet_logs

BACKLOG = 128  # connections that wait to be accepted
SHUTDOWN_SECONDS = 10  # beyond the time that a request may take
KEEP_ALIVE = 30  # seconds


def bind(host: str, port: int) -> socket.socket:
    """The socket that a server listens on; port 0 takes one that is free.

    Raises:
        ServiceError: the port is taken, or this machine has no such address; the line says what to do.
        UsageError: the port is none.
    """
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port {port}: a port lies between 0 and 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Named as TCP, or asyncio leaves out TCP_NODELAY, and every answer waits 40 ms for the acknowledgement before.
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening
    except OSError as error:
        raise ServiceError(
            f"{host}:{port}: cannot listen there: {error.strerror or error}; name another --port or --host"
        ) from None


def url_of(listening: socket.socket) -> str:
    """Where a browser on this machine finds what listens on a socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(app: FastAPI, timeout: float) -> uvicorn.Server:
    """A server of an application, for ``run(sockets=[...])``.

    It ends at SIGTERM or Ctrl-C: new connections are refused, and requests that were accepted are answered.

    Args:
        app: the application.
        timeout: seconds that a request may take.
    """
    config = uvicorn.Config(
        app,
        log_config=quiet_logs(),
        access_log=False,
        http="h11",  # bounds the headers of a request; httptools takes any amount of them
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(timeout) + SHUTDOWN_SECONDS,
        ws="none",
        lifespan="on",
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, listening: socket.socket, timeout: float, say: Callable[[str], object]) -> None:
    """Serves until the process is asked to end.

    Args:
        app: the application.
        listening: of ``bind``; closed at the end.
        timeout: seconds that a request may take.
        say: is told the address.
    """
    with listening:
        say(url_of(listening))
        make_server(app, timeout).run(sockets=[listening])
