"""Re-rankers by their names."""

from collections.abc import Callable, Mapping

from runtime.errors import UsageError
from runtime.rerank.interface import Reranker
from runtime.rerank.similarity import Similarity
from runtime.rerank.spatial import Spatial

RERANKERS: Mapping[str, Callable[[], Reranker]] = {"spatial": Spatial, "similarity": Similarity}


def reranker_of(rerank: "str | Reranker | None") -> Reranker | None:
    """The re-ranker that is meant: by its name, or the object itself. Raises UsageError if it is none."""
    if rerank is None or (isinstance(rerank, Reranker) and not isinstance(rerank, str | type)):
        return rerank
    if isinstance(rerank, str) and rerank in RERANKERS:
        return RERANKERS[rerank]()
    raise UsageError(f"rerank={rerank!r}: there is {', '.join(RERANKERS)}, or give an object with the method rerank")
