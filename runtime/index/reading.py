"""An open index: what one commit of it holds, and searches among it."""

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import place, whole_number_above_0
from runtime.errors import DamagedError, HowlError, MissingError, ReplacedError, StorageError, UnknownIdError
from runtime.forking import renew_after_fork
from runtime.index.arrays import HINT
from runtime.index.hits import Hit, Hits
from runtime.index.ids import ids_of
from runtime.index.interface import AnyIndex
from runtime.index.opening import Part, load_commit, open_at
from runtime.index.origin import Origin
from runtime.index.segment import Segment
from runtime.index.shards import refuse_shards
from runtime.index.strangers import Strangers
from runtime.index.verification import CATALOGUE
from runtime.io.files import reason

STRANGERS = "strangers"  # their name in the catalogue's metadata


@dataclass(frozen=True)
class IndexStats:
    """What an index holds.

    Attributes:
        method: of its layout: ``asmk`` or ``vectors``.
        images: that a search can find.
        removed: images that were removed and are still on the disk.
        entries: of all segments, by the method: of inverted files, or vectors.
        segments: folders.
        bytes: on the disk.
    """

    method: str
    images: int
    removed: int
    entries: int
    segments: int
    bytes: int


class IndexReader(AnyIndex):
    """The images of one commit of an index. ``Index`` adds what changes them.

    The folder is fixed when the index is opened. If the path leads elsewhere later, because the folder was replaced,
    moved or deleted or a symbolic link was changed, searches go on with what was opened.

    Attributes:
        path: of the index, as it was named.
        fingerprint: of the engines whose features it holds.
        layout: of its segments.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens an existing index.

        Args:
            path: of its folder, or of a symbolic link to it.

        Raises:
            HowlError: it is missing or damaged; the line names the file.
        """
        self.path = place("index", path)
        refuse_shards(self.path)
        self._place = self.path.absolute()  # whatever the current folder is later
        self._lock = threading.RLock()
        # The parts are never changed, only replaced: a search in another thread sees one commit.
        self._folder, self._catalogue, self._parts = open_at(self._place)
        self.fingerprint = self._catalogue.metadata("fingerprint")
        self.layout = self._catalogue.layout
        renew_after_fork(self)

    def renew_after_fork(self) -> None:
        """Lets go of what other threads held, and connects anew: SQLite's connections cannot be forked."""
        self._lock = threading.RLock()
        self._catalogue.connect_anew()

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether there is an index in a folder. Raises HowlError if it cannot be accessed, or the index has shards."""
        refuse_shards(path)
        try:
            return (path / CATALOGUE).exists()
        except OSError as error:
            raise StorageError(f"{path}: {reason(error)}") from None

    def close(self) -> None:
        """Closes the catalogue. Searches go on; nothing else does."""
        with self._lock:
            self._catalogue.close()

    def __len__(self) -> int:
        return sum(self._live_counts())

    def existing(self, ids: Iterable[str | os.PathLike[str]]) -> list[str]:
        """Those of the ids that are in the index."""
        with self._lock:
            return self._catalogue.existing(ids_of(ids))

    def below(self, folder: str) -> list[str]:
        """The ids that lie in a folder, as paths; ``.`` has all that are relative."""
        with self._lock:
            return self._catalogue.below(folder)

    def origins(self, ids: Sequence[str]) -> dict[str, Origin | None]:
        """The files that images came from, by id, as they were then; None for those that came from none."""
        with self._lock:
            return self._catalogue.origins(ids)

    def ids_at(self, places: Sequence[int]) -> dict[int, str]:
        """The id of an image that came from the file at each of these places (``Origin.place``), if there is one."""
        with self._lock:
            return self._catalogue.ids_at(places)

    def ids(self) -> list[str]:
        """The ids of all images, in the order of their addition."""
        return [id_ for segment, live in self.parts() for id_ in compress(segment.ids, live.tolist())]

    def page(self, start: int, stop: int) -> list[str]:
        """``ids()[start:stop]``, for which only the segments that hold these are looked at; both are at least 0."""
        found: list[str] = []
        for segment, live in self.parts():
            rows = np.flatnonzero(live)
            found += (segment.ids[row] for row in rows[max(0, start) : max(0, stop)].tolist())
            start, stop = start - len(rows), stop - len(rows)
        return found

    def parts(self) -> list[Part]:
        """The segments, in the order of addition."""
        return list(self._parts.values())

    def stats(self) -> IndexStats:
        """Counts, and the bytes on disk."""
        parts = self.parts()
        return IndexStats(
            method=self.layout.method,
            images=len(self),
            removed=sum(len(segment) for segment, _ in parts) - len(self),
            entries=sum(segment.store.entries for segment, _ in parts),
            segments=len(parts),
            bytes=sum(size_of(file) for file in self._folder.rglob("*")),
        )

    def refresh(self) -> None:
        """Loads the last commit: what was added, removed or rewritten since, by this process or another.

        If another index of the same engine lies at the path by now, that one is opened instead.

        Raises:
            HowlError: a file of the commit is missing or damaged; the line names it. The index stays as it was.
            ReplacedError: there is no index at the path any more, or one of another engine.
        """
        with self._lock:
            if self._is_in_place():
                try:
                    self._load_commit()
                    return
                except HowlError:
                    if self._is_in_place():
                        raise  # else it was replaced just now
            self._open_replacement()

    def search(
        self,
        query: Any,
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> Hits:
        """The images most similar to a query, best first; equal scores in the order of addition.

        Args:
            query: as the ``FirstStage`` of the index's method encodes it.
            top: the maximum number of hits, at least 1; with ASMK, only images that score above 0 are hits.
            only: ids of the images to search; None for all.
            exclude: ids of images that are to be no hits; those that are not in the index change nothing.

        Raises:
            UnknownIdError: one of ``only`` is not in the index.
            UsageError: ``top`` is below 1, or ``only`` or ``exclude`` is a single text.
        """
        top = whole_number_above_0("top", top)
        found: list[tuple[float, int, Segment]] = []
        for segment, live in self.narrowed(self.parts(), only, exclude):
            images, scores = segment.best(query, live, top)
            found += zip(scores.tolist(), images.tolist(), repeat(segment), strict=False)
        found.sort(key=lambda hit: -hit[0])  # stable: equal scores stay in the order of addition
        return Hits(Hit(segment.ids[image], score) for score, image, segment in found[:top])

    def located(self, ids: Sequence[str]) -> list[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]]:
        """Where images lie: each segment that has some, their rows in it, and their places among ``ids``.

        Ids that are not in what was loaded are nowhere.
        """
        with self._lock:
            numbers = self._catalogue.numbers(ids)
        ordinals = np.array([numbers.get(id_, -1) for id_ in ids], np.int64)
        is_open = np.ones(len(ids), bool)
        found = []
        for segment, live in self.parts():
            rows = np.searchsorted(segment.ordinals, ordinals)
            inside = np.flatnonzero(rows < len(segment))
            places = inside[(segment.ordinals[rows[inside]] == ordinals[inside]) & live[rows[inside]]]
            if len(places):
                found.append((segment, rows[places], places))
                is_open[places] = False
        # What another process has removed or replaced since is still there in what was loaded.
        missing = {ids[place]: place for place in np.flatnonzero(is_open).tolist()}
        for segment, live in self.parts() if missing else ():
            rows = np.array([row for row, id_ in enumerate(segment.ids) if id_ in missing and live[row]], np.int64)
            if len(rows):
                found.append((segment, rows, np.array([missing[segment.ids[row]] for row in rows.tolist()])))
        return found

    def located_at(self, positions: NDArray[np.int64]) -> list[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]]:
        """``located``, of images by their positions among ``ids()``; a negative one is nowhere."""
        parts = [(segment, np.flatnonzero(live)) for segment, live in self.parts()]
        lengths = [len(rows) for _, rows in parts]
        return [(parts[part][0], parts[part][1][own], places) for part, own, places in divided(positions, lengths)]

    def narrowed(
        self,
        parts: Sequence[Part],
        only: Iterable[str | os.PathLike[str]] | None,
        exclude: Iterable[str | os.PathLike[str]],
    ) -> list[Part]:
        """Parts of this index whose live images are those that a search is to find: ``search`` has the arguments."""
        chosen = None if only is None else self._ordinals(only, "only", must_exist=True)
        without = self._ordinals(exclude, "exclude", must_exist=False)
        if chosen is not None:
            parts = [part._replace(live=part.live & np.isin(part.segment.ordinals, chosen)) for part in parts]
        if len(without):
            parts = [part._replace(live=part.live & ~np.isin(part.segment.ordinals, without)) for part in parts]
        return list(parts)

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The scores of all images, float64 [n], in the order of ``ids``; the query is as for ``search``."""
        parts = [segment.scores(query)[live] for segment, live in self.parts()]
        return np.concatenate(parts) if parts else np.empty(0)

    def strangers(self) -> Strangers | None:
        """What photos of different places score here, if it was measured."""
        with self._lock:
            text = self._catalogue.find_metadata(STRANGERS)
        try:
            return None if text is None else Strangers.from_json(text)
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{self.path / CATALOGUE}: damaged ({str(error)[:200]}); {HINT}") from None

    def _ordinals(self, ids: Iterable[str | os.PathLike[str]], what: str, *, must_exist: bool) -> NDArray[np.int64]:
        """The ordinals of images by their ids, int64 [k], in any order."""
        names = ids_of(ids, what)
        if not names:
            return np.empty(0, np.int64)
        with self._lock:
            numbers = self._catalogue.numbers(names)
        if must_exist and (missing := next((name for name in names if name not in numbers), None)) is not None:
            raise UnknownIdError(f"{self.path}: {what}: {missing} is not in the index")
        return np.fromiter(numbers.values(), np.int64)

    def _live_counts(self) -> list[int]:
        return [int(live.sum()) for _, live in self.parts()]

    def _load_commit(self) -> None:
        self._parts = load_commit(self._folder, self._catalogue, self._parts)

    def _is_in_place(self) -> bool:
        """Whether the path still leads to the index that was opened."""
        return self._catalogue.is_at(self._place / CATALOGUE)

    def _open_replacement(self) -> None:
        """Opens what lies at the path by now; if that fails, searches go on with what was opened."""
        try:
            folder, catalogue, parts = open_at(self._place)
        except MissingError:
            raise ReplacedError(
                f"{self.path}: moved or deleted since it was opened; searches go on with what was opened"
            ) from None
        fingerprint = catalogue.metadata("fingerprint")
        if (fingerprint, catalogue.layout) != (self.fingerprint, self.layout):
            catalogue.close()
            what = "with other regions or geometry" if fingerprint == self.fingerprint else "of another engine"
            raise ReplacedError(f"{self.path}: replaced by an index {what}; searches go on with what was opened")
        self._catalogue.close()
        self._folder, self._catalogue, self._parts = folder, catalogue, parts


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for a folder, or if a writer has just deleted it."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def divided(
    positions: NDArray[np.int64], lengths: Sequence[int]
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Which of several parts, one after the other, positions lie in; a negative one lies in none.

    Args:
        positions: int64 [n], counted through all parts.
        lengths: of the parts.

    Returns:
        for each part that has some: its number, the positions counted from its start, and their places among all.
    """
    found, first = [], 0
    for part, length in enumerate(lengths):
        places = np.flatnonzero((positions >= first) & (positions < first + length))
        if len(places):
            found.append((part, positions[places] - first, places))
        first += length
    return found
