"""A retriever whose index is on many machines: an engine here, and the shards of an index in a Ray cluster.

retriever = ShardedRetriever("engine.onnx", index="landmarks.index", address="head:6379")
hits = retriever.search("query.jpg", top=10)
hits.missing  # the shards that did not answer
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.arguments import finite_number, one_of, whole_number_above_0
from runtime.errors import IncompatibleError, UsageError
from runtime.first_stage import Searcher
from runtime.index import AnyIndex
from runtime.index.shards import Shards
from runtime.index_place import IndexPlace
from runtime.retriever import Retriever
from runtime.sharded.cluster import Cluster, connect
from runtime.sharded.index import ON_MISSING, ShardedIndex

SECONDS = 15.0  # that a shard's answer may take


@dataclass(frozen=True)
class ShardedPlace(IndexPlace):
    """A folder that is an index with shards.

    Attributes:
        replicas: of each shard.
        on_missing: ``ShardedIndex``.
        timeout: seconds that a shard's answer may take.
    """

    replicas: int
    on_missing: str
    timeout: float

    def opened(self) -> AnyIndex:
        """The index. Raises HowlError if there is none with shards, or it is another engine's."""
        shards = Shards.at(self.path)
        cluster = Cluster(shards, replicas=self.replicas, timeout=self.timeout, wait=self.wait)
        try:
            index = ShardedIndex(cluster, on_missing=self.on_missing)
            if index.fingerprint != self.encoder.manifest.fingerprint:
                raise IncompatibleError(
                    f"{self.path} was made with another engine than {self.encoder.path}: use that one, or index the "
                    "photos again"
                )
            if self.regions is not None:
                self.check_regions(index, self.regions)
        except BaseException:
            cluster.close()
            raise
        return index

    def made(self) -> AnyIndex:
        """An index with shards is made by ``howl index --ray`` only."""
        return self.opened()


class ShardedRetriever(Retriever):
    """``Retriever`` of an index with shards. Its calls are the same, and scores are equal to the bit.

    Equal scores come in the order of the ids (``runtime.index.shards.rank``), and so do answers with several shards.
    ``add`` and ``remove`` make one commit in each shard that is concerned. Re-ranking works with all shards or not at
    all.
    """

    def __init__(
        self,
        engine: str | Path,
        index: str | Path | None = None,
        *,
        address: str | None = None,
        replicas: int = 1,
        on_missing: str = "partial",
        timeout: float = SECONDS,
        **settings: Any,
    ) -> None:
        """Opens an engine here and the shards of an index in a cluster.

        Args:
            engine: as for ``Retriever``.
            index: its folder, which all machines of the cluster see at this path.
            address: of the cluster: ``runtime.sharded.cluster.connect``.
            replicas: of each shard, on different machines: searches share them, and one is enough for an answer.
            on_missing: ``partial``: while shards do not answer, a search gives what the others have, and says which
                are missing (``Hits.missing``); ``fail``: it raises ServiceError.
            timeout: seconds that a shard's answer may take.
            settings: as for ``Retriever``.

        Raises:
            HowlError: as ``Retriever``; or there is no cluster, or no index with shards.
        """
        self._replicas = whole_number_above_0("replicas", replicas)
        self._on_missing = one_of("on_missing", on_missing, ON_MISSING)
        self._timeout = finite_number("timeout", timeout)
        if self._timeout <= 0:
            raise UsageError(f"timeout={timeout}: must be a number of seconds above 0")
        connect(address)
        super().__init__(engine, index, **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        raise UsageError("a ShardedRetriever cannot be sent to another process; open another one there")

    def _place_of(self, place: IndexPlace) -> IndexPlace:
        return ShardedPlace(**vars(place), replicas=self._replicas, on_missing=self._on_missing, timeout=self._timeout)

    def _searcher_of(self, index: AnyIndex) -> Searcher:
        """The shards search, whatever runs the engine."""
        return index
