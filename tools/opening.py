"""The retriever that a command's options ask for: of an index here, or of one with shards on a Ray cluster."""

from typing import Any

from runtime.retriever import Retriever


def open_retriever(
    engine: str, index: str | None, *, ray: str | None, replicas: int | None, on_missing: str | None, **settings: Any
) -> Retriever:
    """Opens an engine and an index.

    Args:
        engine: as for ``Retriever``.
        index: its folder.
        ray: address of a cluster, empty for the one that is found; None for an index without shards.
        replicas: of each shard; None for 1.
        on_missing: as for ``ShardedRetriever``; None for ``partial``.
        settings: as for ``Retriever``.

    Raises:
        HowlError: as ``Retriever`` and ``ShardedRetriever``.
    """
    if ray is None:
        return Retriever(engine, index, **settings)
    from runtime.sharded.retriever import ShardedRetriever  # late: most have no cluster

    return ShardedRetriever(
        engine, index, address=ray, replicas=replicas or 1, on_missing=on_missing or "partial", **settings
    )
