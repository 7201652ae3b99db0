"""Re-ranking by similarity alone: answers that look like the best answers are answers, too. No geometry, no network.

The candidates are the nodes of a graph. Each is linked to those among its most similar ones that it is one of the most
similar for (mutual neighbours). From the best few, the seeds, confidence spreads along the links until nothing changes:

    f = (I − α D^−½ W D^−½)⁻¹ y

with W the similarities of linked candidates to the power of γ, D their sums, and y the seeds' own scores. This is
diffusion on a small graph (Zhou et al., NIPS 2003; for images Iscen et al., CVPR 2017), whose solution is exact here.
Time grows with the cube of the number of candidates, memory with its square.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import number_at_least_0, whole_number_above_0
from runtime.errors import UsageError
from runtime.first_stage import Layout
from runtime.rerank.interface import Candidates, Query, Reranking


@dataclass(frozen=True)
class Similarity:
    """Re-ranks by what the candidates have in common. The values were chosen on training scenes: docs/rerank.md.

    Attributes:
        neighbours: of a candidate, that it may be linked to.
        exponent: γ, of similarities.
        damping: α below 1: the share of confidence that goes on along the links.
        seeds: the best candidates, from which it spreads.
        sharpness: the exponent of the seeds' scores, over the best one's: seeds that are much worse spread little.
        gain: of the confidence of the most confident candidate, over the score of the last seed. Not of the best one:
            the query itself, if the index has it, would outweigh all other scores.
    """

    candidates: ClassVar[int] = 200

    neighbours: int = 12
    exponent: float = 0.7
    damping: float = 0.97
    seeds: int = 3
    sharpness: float = 3.0
    gain: float = 3.0

    def __post_init__(self) -> None:
        """Raises UsageError if a value is none that confidence can spread with."""
        for name in ("neighbours", "seeds"):
            whole_number_above_0(name, getattr(self, name))
        for name in ("exponent", "damping", "sharpness", "gain"):
            number_at_least_0(name, getattr(self, name))
        if self.damping >= 1:
            raise UsageError(f"damping={self.damping}: must be below 1, or confidence never ends to spread")

    def check(self, path: Path, layout: Layout) -> None:
        """Any index will do."""

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """The scores before and the confidence together.

        Raises:
            DamagedError: a file of the index was truncated since it was opened, or its disk failed.
        """
        return Reranking(self.scores(candidates.scores, similarities_of(query.encoded, candidates)))

    def scores(self, before: NDArray[np.float64], similarities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scores before, and ``gain`` times the confidence, scaled so that its highest is the last seed's score.

        A candidate that has nothing to do with the best ones keeps its score.

        Args:
            before: float64 [c].
            similarities: float64 [c, c], of the candidates with each other, symmetric.
        """
        seeds = np.argsort(-before, kind="stable")[: self.seeds]
        if len(seeds) == 0 or before[seeds[-1]] <= 0:
            return before
        start = np.zeros(len(before))
        start[seeds] = (before[seeds] / before[seeds[0]]) ** self.sharpness
        system = np.eye(len(before)) - self.damping * normalised(links(similarities, self.neighbours, self.exponent))
        confidence = np.linalg.solve(system, start)
        return before + self.gain * before[seeds[-1]] * confidence / confidence.max()


def similarities_of(query: Any, candidates: Candidates) -> NDArray[np.float64]:
    """How similar the candidates are to each other, as the first stage scores them, by their places.

    Returns:
        float64 [c, c], symmetric; 0 for a candidate that lies nowhere.
    """
    similarities = np.zeros((len(candidates), len(candidates)))
    found = [
        (place, image)
        for store, rows, places in candidates.located
        for place, image in zip(places.tolist(), store.images_at(rows), strict=True)
    ]
    if found:
        found.sort(key=lambda pair: pair[0])  # so that no sum depends on how images are divided into segments
        places = [place for place, _ in found]
        store = candidates.located[0].store
        similarities[np.ix_(places, places)] = store.similarities([image for _, image in found], query)
    return similarities


def links(similarities: NDArray[np.float64], neighbours: int, exponent: float) -> NDArray[np.float64]:
    """The weights of links between mutual neighbours, float64 [c, c]: similarity^exponent, 0 where there is none."""
    weights = similarities.copy()
    np.fill_diagonal(weights, 0)
    most = min(neighbours, len(weights) - 1)
    if most < 1:
        return np.zeros_like(weights)
    least = -np.partition(-weights, most - 1, axis=1)[:, most - 1]
    near = (weights >= least[:, None]) & (weights > 0)
    return np.where(near & near.T, np.maximum(weights, 0) ** exponent, 0)


def normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """D^−½ W D^−½ with D the sums of the rows; what has no link keeps none."""
    sums = weights.sum(axis=1)
    roots = np.divide(1, np.sqrt(sums), out=np.zeros(len(sums)), where=sums > 0)
    return weights * roots[:, None] * roots
