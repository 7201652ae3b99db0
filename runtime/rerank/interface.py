"""The interface of every re-ranker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from runtime.features import Features
from runtime.index import Hit, Index
from runtime.io.image import PhotoInput

CANDIDATES = 100  # that a re-ranker looks at, if nothing else is said


@dataclass(frozen=True)
class Query:
    """A query, with all that a re-ranker may use.

    Attributes:
        photo: as the caller gave it.
        features: what the engine gave for it; positions are in pixels of the image that the engine took.
        encoded: what the first stage searched with.
        settings: of the first stage, as it names them (``FirstStage.settings``).
    """

    photo: PhotoInput
    features: Features
    encoded: Any
    settings: Mapping[str, Any]


@runtime_checkable
class Reranker(Protocol):
    """Puts the first stage's candidates into a better order."""

    def rerank(self, query: Query, candidates: Sequence[Hit], index: Index) -> list[Hit]:
        """The same candidates, best first, with scores of the re-ranker's own.

        Args:
            query: what was searched for.
            candidates: the first stage's best, best first.
            index: the index that they are in.

        Raises:
            IncompatibleError: the engine or the index lacks what this re-ranker needs.
        """
        ...
