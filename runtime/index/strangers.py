"""What photos of different places score: a scale for the scores of an index, which have none of their own.

Measured without labels. Of the scores of a few of the index's photos against all others, nearly all are those of
strangers, so that the median and the upper quartile are theirs, whatever the photos of a same place score. Above the
median the scores of strangers fall off about exponentially: they halve in number with every step of

    h = upper quartile − median,

and the best of n strangers scores about median + h · log₂(n/2).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE = 64  # photos whose scores are measured
LEAST_SAMPLE, LEAST_IMAGES = 8, 30  # with fewer, a few photos of one place would count as strangers


class Scored(Protocol):
    """An index or a store."""

    def scores(self, query: Any) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Strangers:
    """The scores of photos of different places.

    Attributes:
        median: of their scores.
        quartile: the upper one.
        images: of the index when they were measured.
        settings: of the search, as ``FirstStage`` gives them: other parameters make other scores.
    """

    median: float
    quartile: float
    images: int
    settings: Mapping[str, Any]

    @classmethod
    def measure(cls, index: Scored, queries: Sequence[Any], settings: Mapping[str, Any]) -> "Strangers | None":
        """Scores some photos of an index against all others.

        Args:
            index: with the photos.
            queries: photos of the index, encoded as queries; 64 are enough.
            settings: of the search.

        Returns:
            None if there are too few photos: 30, and 8 queries, are the least.
        """
        if len(queries) < LEAST_SAMPLE:
            return None
        # The largest of a photo's scores is its own.
        others = [np.sort(index.scores(query))[:-1] for query in queries]
        if len(others[0]) + 1 < LEAST_IMAGES:
            return None
        median, quartile = np.quantile(np.concatenate(others), [0.5, 0.75])
        return cls(float(median), float(quartile), len(others[0]) + 1, settings)

    def best_of(self, images: int) -> float:
        """What the best of so many strangers scores, typically: below it, an answer says little."""
        return self.median + (self.quartile - self.median) * math.log2(max(2, images) / 2)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Strangers":
        """Raises ValueError or TypeError if the text is not what ``as_json`` wrote."""
        strangers = cls(**json.loads(text))
        if not (math.isfinite(strangers.median) and math.isfinite(strangers.quartile) and strangers.images >= 1):
            raise ValueError(f"the scores of strangers are {text[:200]}")
        return strangers
