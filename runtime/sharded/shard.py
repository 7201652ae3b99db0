"""One shard of an index, in a process of its own, and what others ask of it. It is a plain class: Ray makes an actor.

Whatever is asked may be asked twice: an answer can get lost with a machine, and the next one must not do harm.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import IncompatibleError
from runtime.first_stage import Layout
from runtime.index import Hit, Index
from runtime.index.origin import Origin
from runtime.index.shards import rank
from runtime.index.strangers import Strangers
from runtime.rerank.interface import Located
from runtime.rerank.spatial import corresponding


@dataclass(frozen=True)
class ShardState:
    """What a shard is at one commit.

    Attributes:
        images: that a search can find.
        fingerprint: of the engines whose features it holds.
        layout: of its segments.
        strangers: what photos of different places score there, if it was measured.
    """

    images: int
    fingerprint: str
    layout: Layout
    strangers: Strangers | None


class Shard:
    """An index and what is asked of it. Any thread may; searches run at the same time as everything else."""

    def __init__(self, path: Path, wait: float) -> None:
        """Opens nothing yet, so that what is wrong with the index is an answer, and not the end of the process.

        Args:
            path: of its folder.
            wait: seconds, for another process that is writing.
        """
        self._path, self._wait = path, wait
        self._opened: Index | None = None
        self._lock = Lock()

    @property
    def _index(self) -> Index:
        with self._lock:
            if self._opened is None:
                self._opened = Index(self._path, wait=self._wait)
            return self._opened

    def make(self, fingerprint: str, layout: Layout) -> ShardState:
        """Makes an empty index, if there is none. Raises IncompatibleError if there is one of another engine."""
        if not Index.exists(self._path):
            Index.create(self._path, fingerprint=fingerprint, layout=layout, wait=self._wait).close()
        state = self.refresh()
        if state.fingerprint != fingerprint or state.layout != layout:
            what = "of another engine" if state.fingerprint != fingerprint else "with other regions or geometry"
            raise IncompatibleError(f"{self._path}: an index {what}; use that one, or index the photos again")
        return state

    def refresh(self) -> ShardState:
        """Takes up what others have committed since."""
        self._index.refresh()
        return self._state()

    def _state(self) -> ShardState:
        index = self._index
        return ShardState(len(index), index.fingerprint, index.layout, index.strangers())

    def pid(self) -> int:
        """Of the process."""
        return os.getpid()

    def search(
        self, query: Any, top: int, only: Sequence[str] | None, exclude: Sequence[str]
    ) -> tuple[list[str], NDArray[np.float64]]:
        """The ids and scores of the best images by ``runtime.index.shards.rank``: ``Index.search``."""
        hits = best_by_rank(self._index, query, top, only, exclude)
        return [hit.id for hit in hits], np.array([hit.score for hit in hits])

    def corresponding(self, query: Any, ids: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.void]]:
        """The words that a query shares with images: ``runtime.rerank.spatial.corresponding``.

        One that was removed meanwhile shares none.
        """
        return corresponding(query, [Located(*each) for each in self._index.located(ids)], len(ids))

    def images_of(self, ids: Sequence[str]) -> list[Any]:
        """What was encoded of images: ``Store.images_at``; None for one that was removed meanwhile."""
        images: list[Any] = [None] * len(ids)
        for segment, rows, places in self._index.located(ids):
            for place, image in zip(places.tolist(), segment.images_at(rows), strict=True):
                images[place] = image
        return images

    def existing(self, ids: Sequence[str]) -> list[str]:
        """``Index.existing``."""
        return self._index.existing(ids)

    def below(self, folder: str) -> list[str]:
        """``Index.below``."""
        return self._index.below(folder)

    def ids(self) -> list[str]:
        """``Index.ids``."""
        return self._index.ids()

    def page(self, start: int, stop: int) -> list[str]:
        """``Index.page``."""
        return self._index.page(start, stop)

    def origins(self, ids: Sequence[str]) -> dict[str, Origin | None]:
        """``Index.origins``."""
        return self._index.origins(ids)

    def ids_at(self, places: Sequence[int]) -> dict[int, str]:
        """``Index.ids_at``."""
        return self._index.ids_at(places)

    def ensure_writable(self) -> None:
        """``Index.ensure_writable``."""
        self._index.ensure_writable()

    def add(
        self,
        ids: Sequence[str],
        images: Sequence[Any],
        origins: Sequence[Origin | None],
        existing: str,
        wait: float | None,
    ) -> tuple[list[str], ShardState]:
        """``Index.add``, and what the shard is then. With ``existing="error"``, a second time is refused."""
        added = self._index.add(ids, images, origins=origins, existing=existing, wait=wait)
        return added, self._state()

    def remove(self, ids: Sequence[str]) -> ShardState:
        """Removes those of the images that are there, in one commit."""
        self._index.refresh()
        if known := self._index.existing(ids):
            self._index.remove(known)
        return self._state()

    def compact(self) -> ShardState:
        """``Index.compact``."""
        self._index.compact()
        return self._state()

    def measure_strangers(self, queries: Mapping[str, Any], settings: Mapping[str, Any]) -> ShardState:
        """``Index.measure_strangers``, with the images that are queries."""
        self._index.measure_strangers(queries, settings)
        return self._state()


def best_by_rank(index: Index, query: Any, top: int, only: Sequence[str] | None, exclude: Sequence[str]) -> list[Hit]:
    """The best images of an index, at most ``top``, by ``runtime.index.shards.rank``.

    An index gives equal scores in the order of addition. All that tie for the last place are therefore asked for.
    """
    count = top + 1
    hits = index.search(query, count, only=only, exclude=exclude)
    while len(hits) == count and hits[-1].score == hits[top - 1].score:
        count *= 2
        hits = index.search(query, count, only=only, exclude=exclude)
    return sorted(hits, key=rank)[:top]
