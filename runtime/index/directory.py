"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

import shutil
import sqlite3
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import compress, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DuplicateIdError, HowlError, StorageError, UnknownIdError, UsageError, WriterBusyError
from runtime.first_stage import MAX_IMAGES, Layout
from runtime.index.arrays import sync_folder
from runtime.index.catalogue import Catalogue, SegmentRow, temporary_prefix
from runtime.index.ids import check_ids
from runtime.index.merging import compaction_cut, segments_to_merge
from runtime.index.segment import Segment, check_large_files, load_segment, store_of, write_segment
from runtime.index.verification import CATALOGUE, SEGMENT_PREFIX, verify

OPENING_ATTEMPTS = 100  # another one is needed only if a writer replaces segments during the last


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    Attributes:
        id: of the image, as it was added.
        score: similarity, larger is better: ASMK's is above 0, that of global descriptors is their inner product.
    """

    id: str
    score: float


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


class Part(NamedTuple):
    """A segment of an open index.

    Attributes:
        segment: its images.
        live: bool [n], which of them were not removed.
    """

    segment: Segment
    live: NDArray[np.bool_]


class Index:
    """An open index directory: the images of one commit, and the only way to add and remove images.

    Only the thread that opened it may use it, except for ``search`` and ``scores``: any thread may call them any time.
    """

    def __init__(self, path: Path) -> None:
        """Opens an existing index. Raises HowlError if it is missing or damaged; the line names the file."""
        self.path = path
        self._catalogue = Catalogue(path / CATALOGUE)
        self.fingerprint = self._catalogue.metadata("fingerprint")
        self.layout = self._catalogue.layout
        self._parts: dict[str, Part] = {}  # never changed, only replaced: a search in another thread sees one commit
        self.refresh()

    @classmethod
    def create(cls, path: Path, *, fingerprint: str, layout: Layout) -> "Index":
        """Makes an empty index for the engines of one fingerprint, in a new or empty folder."""
        store_of(layout)
        try:
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            for folder in made:
                sync_folder(folder.parent)
            if not all(entry.name.startswith(temporary_prefix(path / CATALOGUE)) for entry in path.iterdir()):
                raise UsageError(f"{path}: not empty, and not an index; name a new folder")
            Catalogue.create(path / CATALOGUE, fingerprint, layout)
            sync_folder(path)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: cannot make an index here: {reason(error)}") from None
        return cls(path)

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether there is an index in a folder. Raises HowlError if the folder cannot be accessed."""
        try:
            return (path / CATALOGUE).exists()
        except OSError as error:
            raise StorageError(f"{path}: {reason(error)}") from None

    def close(self) -> None:
        """Closes the catalogue."""
        self._catalogue.close()

    def __len__(self) -> int:
        return sum(self._live_counts())

    def existing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that are in the index."""
        return self._catalogue.existing(ids)

    def ids(self) -> list[str]:
        """The ids of all images, in the order of their addition."""
        return [id_ for segment, live in self.parts() for id_ in compress(segment.ids, live.tolist())]

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
            bytes=sum(size_of(file) for file in self.path.rglob("*")),
        )

    def refresh(self) -> None:
        """Loads the last commit: what was added, removed or rewritten since, by this process or another.

        Raises:
            HowlError: a file of the commit is missing or damaged; the line names it. The index stays as it was.
        """
        for _ in range(OPENING_ATTEMPTS):
            with self._catalogue.reading():
                rows = self._catalogue.segments()
            try:
                segments = {row.name: self._load(row) for row in rows}
            except HowlError:
                # A writer may have replaced and deleted a segment since the catalogue was read.
                if {row.name for row in rows} <= self._catalogue.segment_names():
                    raise
                continue
            self._parts = {row.name: Part(segments[row.name], row.live(segments[row.name].ordinals)) for row in rows}
            return
        raise WriterBusyError(f"{self.path}: it changes faster than it can be read; try again later")

    def add(self, ids: Sequence[str], images: Sequence[Any]) -> None:
        """Adds images in one commit: either all of them are on the disk when this returns, or none.

        Small segments are merged afterwards, in commits of their own.

        Raises:
            HowlError: an id is in the index already or named twice, another process is writing, or the disk is full or
                cannot be written.
        """
        if len(ids) != len(images):
            raise ValueError(f"{len(ids)} ids for {len(images)} images")
        check_ids(self.path, ids)
        if not ids:
            return
        with self._writing("nothing was added") as written:
            if known := self._catalogue.existing(ids):
                raise DuplicateIdError(f"{self.path}: {known[0]} is in the index already; remove it first")
            first = self._catalogue.add_images(ids)
            for start in range(0, len(ids), MAX_IMAGES):
                part = slice(start, start + MAX_IMAGES)
                segment = Segment.build(ids[part], images[part], first + start, self.layout)
                self._write(segment, first + start, first + start + len(segment), written)
        self._merge()

    def remove(self, ids: Sequence[str]) -> None:
        """Removes images in one commit: no search finds them again. ``compact`` frees their space.

        Raises:
            HowlError: an id is not in the index (then none is removed), another process is writing, or the disk is
                full or cannot be written.
        """
        ids = list(dict.fromkeys(ids))
        with self._writing("nothing was removed"):
            known = set(self._catalogue.existing(ids))
            if missing := [id_ for id_ in ids if id_ not in known]:
                raise UnknownIdError(f"{self.path}: {missing[0]} is not in the index; nothing was removed")
            self._catalogue.remove(ids)

    def compact(self, progress: Callable[[int], object] = lambda images: None) -> None:
        """Rewrites the index into as few segments as possible, without the images that were removed.

        Every new segment is a commit of its own, which also deletes what it replaces. A kill or a full disk therefore
        leaves a whole index, and at most one segment is stored twice at a time. Searches continue meanwhile, here and
        in other processes; other writers can add and remove only between the commits.

        Args:
            progress: takes, after every commit, the number of images done since the one before.

        Raises:
            HowlError: another process is writing, the disk is full or cannot be written, or a segment is damaged; the
                line names the file.
        """
        self.refresh()
        done, end = 0, max((int(segment.ordinals[-1]) + 1 for segment, _ in self.parts()), default=0)
        while done < end:
            done, images = self._compact_some(done, end)
            progress(images)

    def verify(self) -> list[str]:
        """All damage to the index on the disk, in lines that name the file: ``runtime.index.verification``."""
        return verify(self.path).damages

    def search(self, query: Any, top: int) -> list[Hit]:
        """The images most similar to a query, best first; equal scores in the order of addition.

        Args:
            query: as the ``FirstStage`` of the index's method encodes it.
            top: the maximum number of hits, at least 1; with ASMK, only images that score above 0 are hits.

        Raises:
            UsageError: ``top`` is below 1.
        """
        if top < 1:
            raise UsageError(f"top={top}: must be at least 1")
        found: list[tuple[float, int, Segment]] = []
        for segment, live in self.parts():
            images, scores = segment.store.best(query, live, top)
            found += zip(scores.tolist(), images.tolist(), repeat(segment), strict=False)
        found.sort(key=lambda hit: -hit[0])  # stable: equal scores stay in the order of addition
        return [Hit(segment.ids[image], score) for score, image, segment in found[:top]]

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The scores of all images, float64 [n], in the order of ``ids``; the query is as for ``search``."""
        parts = [segment.store.scores(query)[live] for segment, live in self.parts()]
        return np.concatenate(parts) if parts else np.empty(0)

    def _load(self, row: SegmentRow) -> Segment:
        known = self._parts.get(row.name)
        return known.segment if known else load_segment(self.path / row.name, row.checksums, row.entries, self.layout)

    def _live_counts(self) -> list[int]:
        return [int(live.sum()) for _, live in self.parts()]

    @contextmanager
    def _writing(self, failure: str) -> Iterator[list[str]]:
        """The writer's commit; the index is refreshed at its end.

        Args:
            failure: the outcome to report if the disk is full or cannot be written.

        Yields:
            a list for the names of the segments that are written: if the block fails, they are deleted.
        """
        written: list[str] = []
        replaced: set[str] = set()
        try:
            with self._catalogue.writing():
                self._sweep()
                before = self._catalogue.segment_names()
                yield written
                replaced = before - self._catalogue.segment_names()
        except BaseException as error:
            with suppress(HowlError):  # the next writer sweeps up
                self._discard(written)
            if isinstance(error, OSError | sqlite3.Error):
                raise StorageError(f"{self.path}: {failure}: {reason(error)}") from None
            raise
        self.refresh()
        self._discard(replaced)

    def _write(self, segment: Segment, start: int, stop: int, written: list[str]) -> None:
        """Writes the segment that is to answer for the ordinals from start to stop, within ``_writing``."""
        written.append(f"{SEGMENT_PREFIX}{uuid.uuid4().hex}")
        checksums = write_segment(self.path / written[-1], segment)
        self._catalogue.add_segment(
            written[-1], start, stop, images=len(segment), entries=segment.store.entries, checksums=checksums
        )

    def _rewrite(self, rows: Sequence[SegmentRow], stop: int, written: list[str]) -> None:
        """Moves the images of neighbouring segments below ordinal ``stop`` into a new one, within ``_writing``."""
        for row in rows:
            # A new checksum of damaged data would hide the damage for ever.
            check_large_files(self.path / row.name, row.checksums, self.layout)
        parts = [self._load(row) for row in rows]
        kept = [row.live(part.ordinals) & (part.ordinals < stop) for row, part in zip(rows, parts, strict=True)]
        self._catalogue.release(rows[0].start, stop)
        if any(keep.any() for keep in kept):
            self._write(Segment.merge(parts, kept), rows[0].start, stop, written)

    def _merge(self) -> None:
        """Merges the segments that ``segments_to_merge`` names. If that fails, the images are there all the same."""
        try:
            while segments_to_merge(self._live_counts()):
                with self._writing("its segments were not merged") as written:
                    rows = self._catalogue.segments()
                    if run := segments_to_merge([int(row.live(self._load(row).ordinals).sum()) for row in rows]):
                        self._rewrite(rows[run.start : run.stop], rows[run.stop - 1].stop, written)
        except WriterBusyError:
            pass  # the other writer merges if it adds images
        except HowlError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=3)

    def _compact_some(self, done: int, end: int) -> tuple[int, int]:
        """Compacts as many images as fit into one segment, from the ordinal ``done`` on.

        Returns:
            the ordinal after them, and how many they are.
        """
        with self._writing("nothing more was compacted") as written:
            rows = [row for row in self._catalogue.segments() if done <= row.start < end]
            if not rows:
                return end, 0
            ordinals = [self._load(row).ordinals for row in rows]
            live = [own[row.live(own)] for row, own in zip(rows, ordinals, strict=True)]
            stop = compaction_cut(rows, live)
            taken = [row for row in rows if row.start < stop]
            if len(taken) > 1 or taken[0].stop != stop or len(live[0]) < len(ordinals[0]):
                self._rewrite(taken, stop, written)
            self._catalogue.shrink()
        return stop, sum(int(np.sum(own < stop)) for own in live)

    def _sweep(self) -> None:
        """Deletes what killed writers left behind; only the current writer may call it."""
        self._discard({folder.name for folder in self.path.glob(f"{SEGMENT_PREFIX}*")})
        for file in self.path.glob(f"{temporary_prefix(self.path / CATALOGUE)}*"):
            file.unlink(missing_ok=True)

    def _discard(self, names: Collection[str]) -> None:
        """Deletes the named segments, except live ones: an interrupt may come after the commit."""
        live = self._catalogue.segment_names()
        for name in names:
            if name not in live:
                shutil.rmtree(self.path / name, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for a folder, or if a writer has just deleted it."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def reason(error: Exception) -> str:
    """Why the operating system or SQLite refused, without the names of files."""
    return getattr(error, "strerror", None) or str(error)
