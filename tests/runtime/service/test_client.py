"""A remote retriever: what it answers is what the retriever behind the server answers."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from runtime import (
    DuplicateIdError,
    HowlError,
    ImageError,
    Retriever,
    ServiceError,
    UnknownIdError,
    UsageError,
)
from runtime.service.client import RemoteRetriever, error_of
from runtime.service.options import ServiceOptions

from .servers import running


@pytest.fixture
def remote(address: str, root: Path) -> Iterator[RemoteRetriever]:
    with RemoteRetriever(address, root=root, timeout=20) as remote:
        yield remote


@pytest.mark.parametrize(
    "how",
    [
        {"top": 3},
        {"rerank": "spatial"},
        {"rerank": "spatial+similarity", "candidates": 2},
        {"min_score": 1 / 3},
        {"only": ["photo1.png", Path("photo2.png")]},
        {"only": ["photo3.png"]},
        {"only": []},
        {"exclude": ["photo0.png", "photo7.png"]},
    ],
    ids=str,
)
def test_hits_are_equal_to_the_bit(remote: RemoteRetriever, retriever: Retriever, root: Path, how: dict) -> None:
    for photo in (root / "photo1.png", (root / "photo2.png").read_bytes()):
        assert remote.search(photo, **how) == retriever.search(photo, **how)


def test_an_array_is_sent_without_loss(remote: RemoteRetriever, retriever: Retriever, make_photo: Callable) -> None:
    assert remote.search(make_photo(1)) == retriever.search(make_photo(1))


def test_many_photos_in_order(remote: RemoteRetriever, retriever: Retriever, root: Path) -> None:
    photos = [root / f"photo{i % 6}.png" for i in range(20)]
    assert remote.search_many(photos, 3) == retriever.search_many(photos, 3)
    here: dict[int, str] = {}
    there: dict[int, str] = {}
    mixed = [photos[0], b"no photo", photos[1], root / "nowhere.png"]
    assert remote.search_many(mixed, skipped=here) == retriever.search_many(mixed, skipped=there)
    assert here.keys() == there.keys() == {1, 3}
    with pytest.raises(ImageError):
        remote.search_many(mixed)


def test_what_the_index_holds(remote: RemoteRetriever, retriever: Retriever, root: Path) -> None:
    assert remote.ids() == retriever.ids()
    assert len(remote) == len(retriever) == 4
    assert "photo0.png" in remote
    assert root / "photo1.png" in remote
    assert root / "photo5.png" not in remote
    assert 3 not in remote
    assert remote.rerankers() == retriever.rerankers()
    assert remote.stranger_score == retriever.stranger_score


def test_photos_are_added_and_removed(remote: RemoteRetriever, retriever: Retriever, root: Path) -> None:
    report = remote.add([root / "photo4.png", root / "nowhere.png", root / "photo5.png"])
    assert report.added == ["photo4.png", "photo5.png"]
    assert list(report.skipped) == ["nowhere.png"]
    assert retriever.ids()[4:] == ["photo4.png", "photo5.png"]
    with pytest.raises(DuplicateIdError):
        remote.add([root / "photo3.png", b"never sent"], ids=["new", "photo4.png"])
    assert "new" not in retriever.ids()
    assert remote.add([root / "photo4.png"], existing="skip").present == ["photo4.png"]
    assert remote.add([root / "photo3.png"], ids=["photo4.png"], existing="replace").added == ["photo4.png"]
    assert remote.search(root / "photo3.png")[1].id == "photo4.png"
    assert list(remote.add([b"no photo"], ids=["x"]).skipped) == ["x"]
    with pytest.raises(UnknownIdError):
        remote.remove(["photo0.png", "photo9.png"])
    remote.remove(["photo0.png", "photo4.png", "photo0.png"])
    assert retriever.ids() == ["photo1.png", "photo2.png", "photo3.png", "photo5.png"]


def test_more_photos_than_a_request_holds(remote: RemoteRetriever, retriever: Retriever, root: Path) -> None:
    data = (root / "photo5.png").read_bytes()
    names = [f"copy{number}" for number in range(70)]
    assert remote.add([data] * 70, ids=names).added == names
    assert retriever.ids()[4:] == names


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda remote, root: remote.search(b"no photo"), ImageError),
        (lambda remote, root: remote.search(None), ImageError),
        (lambda remote, root: remote.search(root / "nowhere.png"), ImageError),
        (lambda remote, root: remote.search(root / "photo0.png", top=0), UsageError),
        (lambda remote, root: remote.search(root / "photo0.png", rerank="magic"), UsageError),
        (lambda remote, root: remote.search(root / "photo0.png", candidates=3), UsageError),
        (lambda remote, root: remote.search(root / "photo0.png", only=["photo9.png"]), UnknownIdError),
        (lambda remote, root: remote.search(root / "photo0.png", only="photo1.png"), UsageError),
        (lambda remote, root: remote.add([b"x"]), UsageError),
        (lambda remote, root: remote.add([b"x"], ids=["a", "b"]), UsageError),
        (lambda remote, root: remote.add([b"x", b"y"], ids=["a", "a"]), DuplicateIdError),
        (lambda remote, root: remote.add([root / "photo0.png"], ids=["../x"]), UsageError),
        (lambda remote, root: remote.search(bytes(2_000_000)), ServiceError),
    ],
)
def test_errors_are_of_the_same_classes(remote: RemoteRetriever, root: Path, call: Callable, kind: type) -> None:
    with pytest.raises(kind) as caught:
        call(remote, root)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_token_opens_a_private_server(retriever: Retriever, root: Path) -> None:
    with running(retriever, ServiceOptions(token="0123456789abcdef", is_private=True)) as url:
        with RemoteRetriever(url, token="0123456789abcdef") as remote:
            assert len(remote) == 4
        with RemoteRetriever(url) as stranger, pytest.raises(ServiceError, match="needs a token"):
            len(stranger)


def test_who_is_told_to_come_back_does(retriever: Retriever, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More callers than the queue has places: all are answered in the end."""
    monkeypatch.setattr("runtime.service.client.CALLERS", 6)
    photos = [root / f"photo{i % 4}.png" for i in range(12)]
    with running(retriever, ServiceOptions(workers=1, queue=1)) as url, RemoteRetriever(url) as remote:
        assert remote.search_many(photos) == retriever.search_many(photos)


def test_a_server_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with RemoteRetriever(url, timeout=0.2) as remote, pytest.raises(ServiceError, match="no answer in time"):
            remote.ids()
    with RemoteRetriever(url, timeout=2) as remote, pytest.raises(ServiceError, match="no server answers there"):
        remote.ids()
    with pytest.raises(UsageError, match="http://"):
        RemoteRetriever("localhost:8000")


def test_something_else_that_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def speak() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with RemoteRetriever(url, timeout=5) as remote, pytest.raises(ServiceError, match="something else"):
            remote.ids()
        thread.join(5)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": "ImageError", "detail": "x"}', ImageError),
        (b'{"error": "os", "detail": "x"}', ServiceError),
        (b'{"error": "MAX_LENGTH", "detail": "x"}', ServiceError),
        (b'["error"]', ServiceError),
        (b"<html>", ServiceError),
    ],
)
def test_an_error_is_of_howls_own_classes(body: bytes, kind: type[HowlError]) -> None:
    assert type(error_of("http://a", 400, body)) is kind


def test_large_and_odd_numbers_arrive_as_they_are(remote: RemoteRetriever, retriever: Retriever, root: Path) -> None:
    best = retriever.search(root / "photo0.png")
    least = np.nextafter(best[1].score, 0)
    assert remote.search(root / "photo0.png", min_score=float(least)) == best[:2]
