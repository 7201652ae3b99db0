"""A server with a socket: callers that are slow, hang up or lie, and the end of the server."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

import httpx2

import howl
from runtime import Retriever, ServiceError, UsageError
from runtime.service.server import bind, url_of

from .servers import Lines

Connect = Callable[[], socket.socket]
HEAD = "POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"


def answer(connection: socket.socket) -> str:
    """All that a server says until it closes the connection or is silent for a while."""
    connection.settimeout(3)
    parts = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while part := connection.recv(65536):
            parts += part
            if b"\r\n\r\n{" in parts and parts.endswith(b"}"):
                break
    return parts.decode()


def test_ten_gigabytes_are_refused_before_they_are_sent(connect: Connect, log: Lines) -> None:
    with connect() as connection:
        connection.sendall(HEAD.format(10**10).encode())
        assert answer(connection).startswith("HTTP/1.1 413 ")
    (line,) = log.wait()
    assert "more than 1 MB" in line


def test_a_body_without_a_length_is_counted(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert answer(connection).startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("patience", [1.0])
def test_who_sends_too_slowly_gets_408(connect: Connect, log: Lines) -> None:
    with connect() as connection:
        connection.sendall(HEAD.format(1000).encode() + b"abc")
        begin = time.monotonic()
        assert answer(connection).startswith("HTTP/1.1 408 ")
        assert 0.9 < time.monotonic() - begin < 5
    assert "408" in log.wait()[0]


def test_who_hangs_up_is_a_line_of_the_log(connect: Connect, log: Lines) -> None:
    with connect() as connection:
        connection.sendall(HEAD.format(1000).encode() + b"abc")
        time.sleep(0.1)
    assert len(log.wait()) == 1
    assert re.search(r"POST /search 499 \d+ ms: the caller hung up", log.wait()[0])


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01",
        b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_400_and_harms_nobody(connect: Connect, address: str, said: bytes) -> None:
    with connect() as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection)[:13] in ("HTTP/1.1 400 ", "")  # or it only hangs up
    assert httpx2.get(f"{address}/healthz").status_code == 200


def test_headers_without_an_end_are_refused(connect: Connect) -> None:
    with connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 300_000)
        assert answer(connection).startswith(("HTTP/1.1 400 ", "HTTP/1.1 431 "))


def test_slow_callers_leave_the_fast_ones_alone(connect: Connect, address: str, root: Path) -> None:
    slow = [connect() for _ in range(8)]
    for connection in slow:
        connection.sendall(HEAD.format(1000).encode() + b"abc")
    found = httpx2.post(f"{address}/search", content=(root / "photo0.png").read_bytes())
    assert found.status_code == 200
    for connection in slow:
        connection.close()


def test_a_port_that_is_taken_is_one_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ServiceError, match=rf"127.0.0.1:{port}: cannot listen there: .*name another --port"):
            bind("127.0.0.1", port)
    with pytest.raises(ServiceError, match="cannot listen there"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(UsageError, match="65535"):
        bind("127.0.0.1", 70_000)


# ------------------------------------------------------------------------------------------- as a process of its own


@pytest.fixture
def launch(engine: Path, root: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """``launch(*options)``: starts ``howl serve`` on the engine; the process and the address."""
    processes: list[subprocess.Popen[str]] = []

    def start(*options: object) -> tuple[subprocess.Popen[str], str]:
        home = Path(howl.__file__).parent
        command = [sys.executable, home / "tools" / "serve.py", engine, "--index", tmp_path / "index", "--port", 0]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(home), *filter(None, sys.path)])}
        process = subprocess.Popen(
            [*map(str, command), "--photos", str(root), "--device", "cpu", *map(str, options)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, process.communicate()[1]
        return process, found[0].rstrip("/")

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def in_work(url: str) -> int:
    """Searches that a server has accepted and not answered."""
    text = httpx2.get(f"{url}/metrics").text
    return sum(int(float(number)) for number in re.findall(r"^howl_search_(?:queue_length|running) (\S+)", text, re.M))


@pytest.mark.slow
def test_at_the_end_what_was_accepted_is_answered(
    launch: Callable, retriever: Retriever, root: Path, make_photo: Callable
) -> None:
    import cv2

    photo = cv2.imencode(".png", make_photo(1, 2000, 2000))[1].tobytes()  # some tens of milliseconds each
    process, url = launch("--workers", 1, "--queue", 20)
    statuses: list[Any] = []

    def ask(_: int) -> None:
        try:
            statuses.append(httpx2.post(f"{url}/search", content=photo, timeout=30).status_code)
        except httpx2.ConnectError:
            statuses.append("refused")

    with ThreadPoolExecutor(10) as pool:
        asked = pool.map(ask, range(10))
        while len(statuses) + in_work(url) < 10:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        list(asked)
    assert statuses == [200] * 10
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert said.splitlines()[-1] == "ended"
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_what_was_acknowledged_survives_a_kill(launch: Callable, retriever: Retriever, root: Path, kills: int) -> None:
    """A 200 means on the disk, whatever the moment of the kill."""
    photo = (root / "photo5.png").read_bytes()
    acknowledged = list(retriever.ids())
    for number in range(kills):
        process, url = launch("--wait", 30)

        def add_for_ever(caller: int, url: str = url, number: int = number) -> None:
            with contextlib.suppress(httpx2.HTTPError), httpx2.Client(base_url=url, timeout=20) as client:
                for which in count():
                    id_ = f"kill{number}/{caller}.{which}"
                    if client.post("/photos", params={"id": id_}, content=photo).status_code == 200:
                        acknowledged.append(id_)

        before = len(acknowledged)
        with ThreadPoolExecutor(4) as pool:
            adding = pool.map(add_for_ever, range(4))
            while len(acknowledged) < before + 15 + 7 * number:
                time.sleep(0.002)
            process.kill()
            list(adding)
        assert process.wait(10) == -signal.SIGKILL
        retriever.refresh()
        held = set(retriever.ids())
        assert set(acknowledged) <= held
        assert len(held) <= len(acknowledged) + 1  # one was on the disk and not yet reported
        assert retriever.index is not None
        assert retriever.index.verify() == []


@pytest.mark.slow
def test_commands_that_cannot_serve_say_why_in_one_line(
    launch: Callable, engine: Path, global_engine: Path, retriever: Retriever, root: Path, tmp_path: Path
) -> None:
    home = Path(howl.__file__).parent

    def said(*words: object) -> tuple[int, str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(home), *filter(None, sys.path)])}
        done = subprocess.run(
            [sys.executable, str(home / "tools" / "serve.py"), *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr.count("\n") == 1, done.stderr
        return done.returncode, done.stderr

    with bind("127.0.0.1", 0) as taken:
        status, line = said(engine, "--port", taken.getsockname()[1])
        assert (status, "cannot listen there" in line) == (1, True)
    status, line = said(global_engine, "--index", tmp_path / "index", "--port", 0)
    assert (status, "was made with another engine than" in line) == (1, True)
    status, line = said(engine, "--port", 0, "--private")
    assert (status, "--token-file" in line) == (2, True)
    status, line = said(engine, "--port", 0, "--photos", tmp_path / "nowhere")
    assert (status, "no such folder" in line) == (1, True)
