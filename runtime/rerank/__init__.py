"""Re-ranking: the best answers of the first stage, put in a better order."""

from runtime.rerank.chain import Chain
from runtime.rerank.dsm import Dsm
from runtime.rerank.hits import FIRST_STAGE, HitOrder
from runtime.rerank.interface import Candidates, Located, Query, Reranker, Reranking
from runtime.rerank.lightglue import LightGlue
from runtime.rerank.named import RERANKERS, Rerankers
from runtime.rerank.ransac import Ransac
from runtime.rerank.similarity import Similarity
from runtime.rerank.spatial import Spatial

__all__ = [
    "FIRST_STAGE",
    "RERANKERS",
    "Candidates",
    "Chain",
    "Dsm",
    "HitOrder",
    "LightGlue",
    "Located",
    "Query",
    "Ransac",
    "Reranker",
    "Rerankers",
    "Reranking",
    "Similarity",
    "Spatial",
]
