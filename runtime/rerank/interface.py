"""The interface of every re-ranker: what it is given, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.features import Features
from runtime.first_stage import Layout
from runtime.io.image import PhotoInput


@dataclass(frozen=True)
class Query:
    """A query, with all that a re-ranker may use.

    Attributes:
        photo: as the caller gave it.
        encoded: what the first stage searched with.
        settings: of the first stage, as it names them (``FirstStage.settings``).
        features: what the engine gave for it, with positions in pixels of the image that the engine took; None where
            they were not kept.
        advance: is called before each candidate by re-rankers that take long for one; what it raises ends the work.
    """

    photo: PhotoInput
    encoded: Any
    settings: Mapping[str, Any]
    features: Features | None = None
    advance: Callable[[], object] = lambda: None


class Located(NamedTuple):
    """Images that lie in one store.

    Attributes:
        store: a segment of an index, or what is searched instead (``runtime.first_stage.Store``).
        rows: int64 [k], the images in it.
        places: int64 [k], their places among all candidates.
    """

    store: Any
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """The first stage's best answers, c of them, best first.

    Attributes:
        scores: float64 [c], the first stage's; or of the re-ranker before, in whatever order (``Chain``).
        located: where they lie, for a re-ranker that works with what the index holds of them.
        ids: c ids.
        photos: c paths of their files, which need not be there, for one that works with pixels.
    """

    scores: NDArray[np.float64]
    located: Sequence[Located]
    ids: Sequence[str]
    photos: Sequence[Path]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Reranking:
    """What a re-ranker says of c candidates, in the order in which it was given them.

    Attributes:
        scores: float64 [c], larger is better; of equal ones, the first stage's order stays.
        inliers: int [c], features of the query that lie in the image as one view would have them; −1 for one that it
            could not look at, and None if the re-ranker counts none.
        verified: bool [c], whether that says that it is the same place; None if it cannot tell.
    """

    scores: NDArray[np.float64]
    inliers: NDArray[np.integer] | None = None
    verified: NDArray[np.bool_] | None = None

    def check(self, count: int) -> None:
        """Raises UsageError unless there is a finite score, and all else, for each of ``count`` candidates."""
        for name in ("scores", "inliers", "verified"):
            values = getattr(self, name)
            if values is None and name != "scores":
                continue
            if not isinstance(values, np.ndarray) or values.shape != (count,):
                raise UsageError(f"a re-ranker's {name}: an array of {count} values is needed, one for each candidate")
        if not np.isfinite(self.scores).all():
            raise UsageError("a re-ranker's scores: must be finite numbers")

    def order(self) -> NDArray[np.int64]:
        """int64 [c]: the candidates, best first."""
        return np.argsort(-self.scores, kind="stable")


@runtime_checkable
class Reranker(Protocol):
    """Puts the first stage's candidates into a better order."""

    @property
    def candidates(self) -> int:
        """How many it looks at, if nothing else is said."""
        ...

    def check(self, path: Path, layout: Layout) -> None:
        """Raises IncompatibleError if an index or an engine of this layout lacks what it needs; names ``path``."""
        ...

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """Scores of its own for the candidates. Raises HowlError where it cannot."""
        ...
