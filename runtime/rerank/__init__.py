"""Re-ranking: the best answers of the first stage, put in a better order."""

from runtime.rerank.interface import CANDIDATES, Query, Reranker
from runtime.rerank.named import RERANKERS, reranker_of
from runtime.rerank.spatial import Spatial

__all__ = ["CANDIDATES", "RERANKERS", "Query", "Reranker", "Spatial", "reranker_of"]
