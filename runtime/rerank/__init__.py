"""Re-ranking: the best answers of the first stage, put in a better order."""

from runtime.rerank.hits import FIRST_STAGE, HitOrder
from runtime.rerank.interface import Candidates, Located, Query, Reranker, Reranking
from runtime.rerank.named import RERANKERS, reranker_of
from runtime.rerank.similarity import Similarity
from runtime.rerank.spatial import Spatial

__all__ = [
    "FIRST_STAGE",
    "RERANKERS",
    "Candidates",
    "HitOrder",
    "Located",
    "Query",
    "Reranker",
    "Reranking",
    "Similarity",
    "Spatial",
    "reranker_of",
]
