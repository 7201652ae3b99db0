"""Shards in this process, asked as a cluster's are: what is sent to them and what they answer is pickled."""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest

from runtime import Retriever
from runtime.errors import HowlError
from runtime.index import Index
from runtime.index.shards import Shards
from runtime.io.finding import find_photos
from runtime.sharded import retriever as sharded_retriever
from runtime.sharded.cluster import BROKEN, GONE, Cluster, Replies
from runtime.sharded.retriever import ShardedRetriever
from runtime.sharded.shard import Shard

PHOTOS, COPIES = 24, 6  # the copies are of the first photos, and score the same


class LocalCluster(Cluster):
    """Shards in this process; those in ``down`` do not answer."""

    def __init__(self, shards: Shards, *, replicas: int = 1, timeout: float = 1, wait: float = 1) -> None:
        self.shards, self.down = shards, set[int]()
        self._own = {shard: Shard(shards.place(shard), wait) for shard in range(shards.count)}
        self.asked: list[tuple[str, int]] = []

    def close(self) -> None:
        pass

    def ask(self, method: str, arguments: Mapping[int, Sequence[Any]], *, timeout: float | None = None) -> Replies:
        replies = Replies()
        for shard, own in arguments.items():
            self.asked.append((method, shard))
            if shard in self.down:
                replies.missing[shard] = GONE
                continue
            try:
                answer = getattr(self._own[shard], method)(*pickle.loads(pickle.dumps(tuple(own))))
            except BROKEN as error:
                replies.missing[shard] = str(error)
            else:
                replies.answers[shard] = pickle.loads(pickle.dumps(answer))
        return replies

    def order(self, method: str, arguments: Mapping[int, Sequence[Any]], *, timeout: float | None = None) -> Replies:
        return self.ask(method, arguments)

    def refresh(self) -> Replies:
        up = [shard for shard in self._own if shard not in self.down]
        return Replies({shard: self._own[shard].refresh() for shard in up}, dict.fromkeys(self.down, GONE))

    def open(self) -> dict[int, Any]:
        return {shard: own.refresh() for shard, own in self._own.items()}


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos in folders, some of which are copies of others."""
    from ...conftest import draw_photo

    folder = tmp_path_factory.mktemp("many")
    for i in range(PHOTOS + COPIES):
        file = folder / f"{'abc'[i % 3]}{'-x' * (i % 2)}" / f"{i:02}.png"
        file.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(file), draw_photo(i % PHOTOS))
    return folder


@pytest.fixture
def whole(engine: Path, many: Path, tmp_path: Path) -> Iterator[Retriever]:
    """An ordinary index of them."""
    with Retriever(engine, tmp_path / "whole", root=many, device="cpu", threads=1) as retriever:
        retriever.add(find_photos([many]))
        yield retriever


@pytest.fixture(params=["engine", "global_engine"])
def any_engine(request: pytest.FixtureRequest) -> Path:
    """An engine of local descriptors, and one of global ones."""
    return request.getfixturevalue(request.param)


Divide = Callable[[Retriever, Path, int], Path]


@pytest.fixture
def divide() -> Divide:
    """``divide(retriever, path, count)`` makes an index with shards of all photos of a retriever's root."""

    def divided(retriever: Retriever, path: Path, count: int) -> Path:
        shards, ids = Shards(path, count), retriever.ids()
        for shard in range(count):
            own = [id_ for id_ in reversed(ids) if shards.of(id_) == shard]  # the order must not matter
            with Retriever(retriever.encoder.path, shards.place(shard), root=retriever.root, device="cpu") as part:
                if own:
                    part.add([Path(retriever.root or "", id_) for id_ in own])
                else:
                    layout = retriever.encoder.first_stage.layout
                    fingerprint = retriever.encoder.manifest.fingerprint
                    Index.create(shards.place(shard), fingerprint=fingerprint, layout=layout).close()
        shards.write()
        return path

    return divided


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ShardedRetriever]:
    """Opens a retriever of shards in this process: its index's ``_cluster`` is a LocalCluster."""
    monkeypatch.setattr(sharded_retriever, "Cluster", LocalCluster)
    monkeypatch.setattr(sharded_retriever, "connect", lambda address: None)
    return lambda *arguments, **settings: ShardedRetriever(*arguments, device="cpu", threads=1, **settings)


def refusal(call: Callable[[], object]) -> HowlError:
    """The error of a call."""
    with pytest.raises(HowlError) as caught:
        call()
    return caught.value
