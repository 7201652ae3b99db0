"""Re-ranking: the best answers of the first stage, put in a better order."""

from runtime.rerank.interface import Query, Reranker

__all__ = ["Query", "Reranker"]
