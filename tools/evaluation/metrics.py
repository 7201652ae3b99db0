"""How a ranking is judged, and the figures of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.metrics import average_precision, positive_ranks, precision_at

PRECISION_DEPTHS = (1, 5, 10)


class Truth(NamedTuple):
    """What is known of a query; all other photos are wrong answers.

    Attributes:
        positives: int64 [p], the right answers.
        junk: int64 [j], answers that are neither right nor wrong.
    """

    positives: NDArray[np.int64]
    junk: NDArray[np.int64]


@dataclass(frozen=True)
class QueryResult:
    """How one query fared.

    Attributes:
        query: path of the photo.
        average_precision: in [0, 1].
        precisions: mP@k for the k of PRECISION_DEPTHS.
    """

    query: str
    average_precision: float
    precisions: tuple[float, ...]


def judge(query: str, ranking: NDArray[np.int64], truth: Truth) -> QueryResult:
    """The figures of a query that has a positive, from the numbers of all searched photos, best first."""
    ranks = positive_ranks(ranking, truth.positives, truth.junk)
    precisions = tuple(precision_at(ranks, k) for k in PRECISION_DEPTHS)
    return QueryResult(query, average_precision(ranks, len(truth.positives)), precisions)


def means(results: Sequence[QueryResult]) -> dict[str, float]:
    """mAP and mP@k of at least one query."""
    precisions = np.mean([result.precisions for result in results], axis=0)
    return {
        "mAP": float(np.mean([result.average_precision for result in results])),
        **{f"mP@{k}": float(value) for k, value in zip(PRECISION_DEPTHS, precisions, strict=True)},
    }
