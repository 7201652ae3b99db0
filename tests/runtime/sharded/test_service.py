"""The server over shards: what it answers while one of them does not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from fastapi.testclient import TestClient

from runtime import Retriever
from runtime.index.shards import Shards
from runtime.service.app import create_app
from runtime.service.client import RemoteRetriever
from runtime.service.options import ServiceOptions

from ..service.servers import running
from .conftest import Divide


@pytest.fixture
def serve(
    whole: Retriever, divide: Divide, local: Callable, tmp_path: Path, many: Path
) -> Iterator[Callable[..., tuple[TestClient, Retriever]]]:
    """A client of a server over two shards, and the server's retriever."""
    path = divide(whole, tmp_path / "sharded", 2)
    opened: list[Retriever] = []

    def start(**how: object) -> tuple[TestClient, Retriever]:
        opened.append(local(whole.encoder.path, path, root=many, **how))
        options = ServiceOptions(photos=many, workers=2, refresh=3600)
        return TestClient(create_app(opened[-1], options), raise_server_exceptions=False), opened[-1]

    yield start
    for retriever in opened:
        retriever.close()


def photo(many: Path) -> bytes:
    return (many / "b-x" / "01.png").read_bytes()


def scores(answer: dict) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in answer["hits"]]


def test_answers_are_those_of_one_index(serve: Callable, whole: Retriever, many: Path) -> None:
    client, _ = serve()
    answer = client.post("/search?top=100", content=photo(many)).json()
    assert scores(answer) == [(hit.id, hit.score) for hit in whole.search(photo(many), 100)]
    assert answer["missing"] == []
    assert client.get("/photos").json()["photos"] == len(whole)
    assert client.get("/photos/b-x%2F01.png/image").content == photo(many)


def test_an_added_photo_is_on_the_disk_and_found(serve: Callable, make_photo: Callable, many: Path) -> None:
    client, retriever = serve()
    new = (many / "a" / "00.png").read_bytes()
    assert client.post("/photos?id=z/0.png", content=new).json()["added"] == ["z/0.png"]
    assert client.post("/photos?id=z/0.png", content=new).status_code == 409
    assert client.post("/photos?id=z/0.png&existing=skip", content=new).json()["present"] == ["z/0.png"]
    assert "z/0.png" in [hit["id"] for hit in client.post("/search", content=new).json()["hits"]]
    shards = Shards.at(retriever.index_path)
    with Retriever(retriever.encoder.path, shards.place(shards.of("z/0.png")), device="cpu") as shard:
        assert "z/0.png" in shard.ids()
    assert client.delete("/photos/z%2F0.png").json() == {"removed": 1}
    assert "z/0.png" not in [hit["id"] for hit in client.post("/search", content=new).json()["hits"]]


def test_while_a_shard_is_down(serve: Callable, many: Path) -> None:
    client, retriever = serve()
    shards = Shards.at(retriever.index_path)
    before = client.post("/search?top=100", content=photo(many)).json()
    retriever.index._cluster.down = {1}
    answer = client.post("/search?top=100", content=photo(many)).json()
    assert answer["missing"] == ["shard-1"]
    assert "howl_partial_answers_total 1.0" in client.get("/metrics").text
    assert scores(answer) == [(id_, score) for id_, score in scores(before) if shards.of(id_) == 0]
    lost = next(f"z/{i}.png" for i in range(20) if shards.of(f"z/{i}.png") == 1)
    refused = client.post(f"/photos?id={lost}", content=photo(many))
    assert refused.status_code == 503
    assert "shard-1 of 2 shards" in refused.json()["detail"]
    assert str(retriever.index_path) not in refused.text
    assert client.post("/search?rerank=spatial&candidates=20", content=photo(many)).status_code == 200
    retriever.index._cluster.down = set()
    assert scores(client.post("/search?top=100", content=photo(many)).json()) == scores(before)


def test_a_server_may_fail_instead(serve: Callable, many: Path) -> None:
    client, retriever = serve(on_missing="fail")
    retriever.index._cluster.down = {0}
    refused = client.post("/search", content=photo(many))
    assert (refused.status_code, refused.json()["error"]) == (503, "ServiceError")
    assert "retry-after" in refused.headers


def test_a_remote_retriever_says_so_too(serve: Callable, many: Path) -> None:
    _, retriever = serve()
    retriever.index._cluster.down = {1}
    with running(retriever, ServiceOptions(photos=many, workers=2)) as url, RemoteRetriever(url) as remote:
        hits = remote.search(photo(many), 100)
        assert hits == retriever.search(photo(many), 100)
        assert hits.missing == ("shard-1",)
