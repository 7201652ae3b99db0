"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.asmk import Aggregated, code_length
from runtime.errors import HowlError
from runtime.index.catalogue import Catalogue
from runtime.index.segment import Segment, load_segment, write_segment
from runtime.inverted_file import LARGEST

CATALOGUE = "catalogue.sqlite"
SEGMENT_PREFIX = "segment-"


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    Attributes:
        id: of the image, as it was added.
        score: ASMK similarity; 0 shares nothing with the query, an image against itself is the largest there is.
    """

    id: str
    score: float


@dataclass(frozen=True)
class IndexStats:
    """What an index holds: live images, images removed but still on disk, entries, segments and bytes."""

    images: int
    removed: int
    entries: int
    segments: int
    bytes: int


class Index:
    """An open index directory: the images of its last commit, and the one way to add and remove."""

    def __init__(self, path: Path) -> None:
        """Opens an existing index. Raises HowlError where it is missing or damaged; the line names the file."""
        self.path = path
        self._catalogue = Catalogue(path / CATALOGUE)
        self.identity = self._catalogue.about("identity")
        self.dimensions = self._catalogue.number("dimensions")
        self._segments: dict[str, Segment] = {}
        self._live: dict[str, NDArray[np.bool_]] = {}
        self.refresh()

    @classmethod
    def create(cls, path: Path, *, identity: str, dimensions: int) -> "Index":
        """Makes an empty index for the engines of one identity, in a new or empty folder."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(entry.name != f".{CATALOGUE}.tmp" for entry in path.iterdir()):
                raise HowlError(f"{path}: not empty, and not an index; name a new folder")
            Catalogue.create(path / CATALOGUE, {"identity": identity, "dimensions": str(dimensions)}).close()
        except OSError as error:
            raise HowlError(f"{path}: no index can be made here: {error.strerror or error}") from None
        return cls(path)

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether there is an index in a folder."""
        return (path / CATALOGUE).exists()

    def close(self) -> None:
        """Lets go of the catalogue."""
        self._catalogue.close()

    def __len__(self) -> int:
        return int(sum(live.sum() for live in self._live.values()))

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that are in the index."""
        return self._catalogue.known(ids)

    def ids(self) -> list[str]:
        """The ids of all images, in the order of their addition."""
        return [
            id_
            for name, segment in self._segments.items()
            for id_, live in zip(segment.ids, self._live[name], strict=True)
            if live
        ]

    def stats(self) -> IndexStats:
        """Counts, and the bytes on disk."""
        stored = sum(len(segment.ids) for segment in self._segments.values())
        return IndexStats(
            images=len(self),
            removed=stored - len(self),
            entries=sum(len(segment.inverted_file.images) for segment in self._segments.values()),
            segments=len(self._segments),
            bytes=sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file()),
        )

    def refresh(self) -> None:
        """Takes up the last commit: segments that were added or removed since, by this process or another."""
        segments, live = {}, {}
        for row in self._catalogue.segments():
            known = self._segments.get(row.name)
            segments[row.name] = known or load_segment(self.path / row.name, row.sums)
            live[row.name] = np.ones(row.images, bool)
            live[row.name][list(row.removed)] = False
        self._segments, self._live = segments, live

    def add(self, ids: Sequence[str], images: Sequence[Aggregated]) -> None:
        """Adds images in one commit: when this returns they are on the disk and stay; before, none of them is there.

        Raises:
            HowlError: an id is in the index already or named twice, another process is writing, or the disk refuses.
        """
        if len(ids) != len(images):
            raise ValueError(f"{len(ids)} ids for {len(images)} images")
        if len(set(ids)) < len(ids):
            twice = next(id_ for i, id_ in enumerate(ids) if id_ in ids[:i])
            raise HowlError(f"{self.path}: {twice} is named twice")
        if not ids:
            return
        written: list[str] = []
        try:
            with self._catalogue.writing():
                self._sweep()
                if known := self._catalogue.known(ids):
                    raise HowlError(f"{self.path}: {known[0]} is in the index already; remove it first")
                for start in range(0, len(ids), LARGEST):
                    part = slice(start, start + LARGEST)
                    written.append(f"{SEGMENT_PREFIX}{uuid.uuid4().hex}")
                    sums = write_segment(self.path / written[-1], ids[part], images[part], self.code_length)
                    entries = sum(len(image.words) for image in images[part])
                    self._catalogue.add_segment(written[-1], ids[part], entries, sums)
        except BaseException as error:
            self._discard(written)
            if isinstance(error, OSError):
                raise HowlError(f"{self.path}: nothing was added: {error.strerror or error}") from None
            raise
        self.refresh()

    def remove(self, ids: Sequence[str]) -> None:
        """Removes images in one commit: no search finds them again.

        Raises:
            HowlError: an id is not in the index (then none is removed), or another process is writing.
        """
        ids = list(dict.fromkeys(ids))
        with self._catalogue.writing():
            known = set(self._catalogue.known(ids))
            if missing := [id_ for id_ in ids if id_ not in known]:
                raise HowlError(f"{self.path}: {missing[0]} is not in the index; nothing was removed")
            self._catalogue.remove(ids)
        self.refresh()

    def search(self, query: Aggregated, worth: NDArray[np.float64], top: int) -> list[Hit]:
        """The images most similar to a query, best first; equal scores in the order of addition.

        Args:
            query: aggregated over all its assigned words.
            worth: float64 [D + 1], ``runtime.asmk.selectivity``.
            top: hits at most; images that score 0 are none.
        """
        names = list(self._segments)
        scores = [np.where(self._live[n], self._segments[n].inverted_file.scores(query, worth), 0.0) for n in names]
        ends = np.cumsum([len(part) for part in scores])
        every = np.concatenate(scores) if scores else np.empty(0)
        hits = []
        for best in strongest(every, top):
            segment = int(np.searchsorted(ends, best, side="right"))
            local = best - (ends[segment] - len(scores[segment]))
            hits.append(Hit(self._segments[names[segment]].ids[local], float(every[best])))
        return hits

    def scores(self, query: Aggregated, worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """ASMK scores of all images, float64 [n], in the order of ``ids``; arguments as of ``search``."""
        parts = [
            segment.inverted_file.scores(query, worth)[self._live[name]] for name, segment in self._segments.items()
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def code_length(self) -> int:
        """uint64 words of a code."""
        return code_length(self.dimensions)

    def _sweep(self) -> None:
        """Deletes segments that a killed writer left behind; only the one writer may."""
        self._discard([folder.name for folder in self.path.glob(f"{SEGMENT_PREFIX}*")])

    def _discard(self, names: Sequence[str]) -> None:
        """Deletes those of the segments that the catalogue does not name: an interrupt may come after the commit."""
        live = self._catalogue.segment_names()
        for name in names:
            if name not in live:
                shutil.rmtree(self.path / name, ignore_errors=True)


def strongest(scores: NDArray[np.float64], top: int) -> NDArray[np.intp]:
    """The positions of the ``top`` largest positive scores, largest first; ties in the order of position."""
    if 0 < top < len(scores):
        # All that tie with the last place compete for it, and the earliest win.
        least = np.partition(scores, len(scores) - top)[len(scores) - top]
        candidates = np.flatnonzero(scores >= max(least, np.nextafter(0, 1)))
    else:
        candidates = np.flatnonzero(scores > 0)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:top]
