"""Shards on a cluster of three nodes: equal answers, and what a death does to searches and additions."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs ray: pip install '.[ray]' (make test-ray)")

from runtime import Hits, Retriever, ServiceError, UsageError
from runtime.index import Index
from runtime.index.shards import Shards
from runtime.io.finding import find_photos
from runtime.sharded.retriever import ShardedRetriever

from ...clusters import Nodes, three_nodes, until
from .conftest import Divide, refusal

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOP = 1000
THREADS = 2  # of a storm


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with three_nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """Three nodes, whatever a test before has killed."""
    cluster.fill()
    return cluster


@pytest.fixture
def shards(whole: Retriever, divide: Divide, tmp_path: Path) -> Shards:
    return Shards.at(divide(whole, tmp_path / "sharded", 3))


@pytest.fixture
def connect(whole: Retriever, shards: Shards, nodes: Nodes) -> Callable[..., ShardedRetriever]:
    """Opens a retriever of the shards."""

    def opened(**settings: object) -> ShardedRetriever:
        how: dict = {"address": nodes.address, "device": "cpu", "threads": 1, "root": whole.root, "timeout": 20.0}
        return ShardedRetriever(whole.encoder.path, shards.path, **(how | settings))

    return opened


class Storm:
    """Threads that search and one that adds photos, without pause; what they got is checked at the end."""

    def __init__(self, retriever: ShardedRetriever, photos: list[Path], new: Callable[[int], object]) -> None:
        self._retriever, self._photos, self._new = retriever, photos, new
        self.answers: list[tuple[Path, Hits]] = []
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.faults: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._search) for _ in range(THREADS)]
        self._threads.append(threading.Thread(target=self._add))

    def __enter__(self) -> "Storm":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _search(self) -> None:
        try:
            for photo in itertools.cycle(self._photos):
                if self._over.is_set():
                    return
                self.answers.append((photo, self._retriever.search(photo, TOP)))
        except BaseException as error:
            self.faults.append(error)

    def _add(self) -> None:
        for number in itertools.count():
            id_ = f"new/{number}.png"
            if self._over.wait(0.01):
                return
            try:
                self._retriever.add([self._new(number)], [id_], existing="skip")  # type: ignore[list-item]
                self.acknowledged.append(id_)
            except Exception as error:
                self.refused.append(str(error))


def node_of(retriever: ShardedRetriever, shard: int) -> list[str]:
    return retriever.index._cluster.places()[shard]  # type: ignore[union-attr]


def killable(retriever: ShardedRetriever, nodes: Nodes, count: int) -> tuple[int, str]:
    """A shard that has a replica on a node that can be killed, and the node."""
    return next((s, node) for s in range(count) for node in node_of(retriever, s) if node in nodes.others)


def test_answers_are_those_of_one_index(connect: Callable, whole: Retriever, many: Path) -> None:
    with connect() as sharded:
        assert len({node for shard in range(3) for node in node_of(sharded, shard)}) == 3
        for photo in find_photos([many])[::4]:
            assert sharded.search(photo, TOP) == whole.search(photo, TOP)
        for rerank in ("spatial", "similarity", "spatial+similarity"):
            assert sharded.search(photo, TOP, rerank=rerank) == whole.search(photo, TOP, rerank=rerank)


def test_a_node_killed_in_a_storm(
    connect: Callable, whole: Retriever, shards: Shards, nodes: Nodes, many: Path, make_photo: Callable
) -> None:
    photos = find_photos([many])[:6]
    expected = {photo: whole.search(photo, TOP) for photo in photos}
    with connect() as sharded:
        lost, node = killable(sharded, nodes, 3)
        with Storm(sharded, photos, lambda number: make_photo(100 + number)) as storm:
            until(lambda: len(storm.answers) > 10 and len(storm.acknowledged) > 3)
            nodes.kill(node)
            until(lambda: any(hits.is_partial for _, hits in storm.answers) or bool(storm.faults))
            until(lambda: node not in node_of(sharded, lost) or bool(storm.faults))
            seen = len(storm.answers)
            until(lambda: any(not hits.is_partial for _, hits in storm.answers[seen:]) or bool(storm.faults))
            added = len(storm.acknowledged)
            until(lambda: len(storm.acknowledged) > added + 3)
        assert not storm.faults
        for photo, hits in storm.answers:
            old = [hit for hit in hits if not hit.id.startswith("new/")]
            is_there = [shards.name(shards.of(hit.id)) not in hits.missing for hit in expected[photo]]
            assert old == list(itertools.compress(expected[photo], is_there))
            assert set(hits.missing) <= {shards.name(lost)}
        assert set(storm.acknowledged) <= set(sharded.ids())
        for photo in photos:  # as if nothing had happened
            assert sharded.search(photo, TOP, exclude=sharded.index.selected(["new"])) == expected[photo]
    on_disk = [id_ for shard in range(3) for id_ in Index(shards.place(shard)).ids()]
    assert set(storm.acknowledged) <= set(on_disk)
    assert len(on_disk) == len(set(on_disk))


def test_with_replicas_no_answer_lacks_a_shard(
    connect: Callable, whole: Retriever, nodes: Nodes, many: Path, make_photo: Callable
) -> None:
    photos = find_photos([many])[:3]
    expected = {photo: whole.search(photo, TOP) for photo in photos}
    with connect(replicas=2, on_missing="fail") as sharded:
        assert all(len(set(node_of(sharded, shard))) == 2 for shard in range(3))
        lost, node = killable(sharded, nodes, 3)
        with Storm(sharded, photos, lambda number: make_photo(100 + number)) as storm:
            until(lambda: len(storm.answers) > 5)
            nodes.kill(node)
            until(lambda: node not in node_of(sharded, lost) or bool(storm.faults))
            seen = len(storm.answers)
            until(lambda: len(storm.answers) > seen + 5 or bool(storm.faults))
        assert not storm.faults
        for photo, hits in storm.answers:
            assert not hits.is_partial
            assert [hit for hit in hits if not hit.id.startswith("new/")] == expected[photo]
        assert all(len(set(node_of(sharded, shard))) == 2 for shard in range(3))


def test_a_process_that_died_is_an_error_where_the_caller_wants_one(
    connect: Callable, whole: Retriever, many: Path
) -> None:
    photo = many / "a" / "00.png"
    with connect(on_missing="fail") as sharded:
        (answer,) = sharded.index._cluster.ask("pid", {1: ()}).answers.values()
        os.kill(answer, signal.SIGKILL)
        errors = []

        def is_well() -> bool:
            try:
                return sharded.search(photo, TOP) == whole.search(photo, TOP)
            except ServiceError as error:
                errors.append(str(error))
                return False

        until(is_well)
        assert errors
        assert all("shard-1 of 3 shards" in line for line in errors)


def test_a_moved_index_is_said_and_still_searched(connect: Callable, shards: Shards, many: Path) -> None:
    photo = find_photos([many])[0]
    with connect() as sharded:
        expected = sharded.search(photo, TOP)
        shards.path.rename(shards.path.with_name("moved"))
        assert "moved or deleted since it was opened" in str(refusal(sharded.refresh))
        assert sharded.search(photo, TOP) == expected


def test_an_addition_is_found_by_all_replicas(connect: Callable, make_photo: Callable) -> None:
    with connect(replicas=3) as sharded:
        for number in range(4):
            sharded.add([make_photo(100 + number)], [f"new/{number}.png"])
            for _ in range(6):
                assert sharded.search(make_photo(100 + number), 1)[0].id == f"new/{number}.png"


def test_more_replicas_than_nodes(connect: Callable) -> None:
    error = refusal(lambda: connect(replicas=4))
    assert type(error) is UsageError
    assert "the cluster has 3 machines" in str(error)
