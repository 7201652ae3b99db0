"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

import os
import shutil
import sqlite3
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from runtime.arguments import one_of
from runtime.errors import (
    HowlError,
    IncompatibleError,
    ReplacedError,
    StorageError,
    UsageError,
    WriterBusyError,
)
from runtime.first_stage import MAX_IMAGES, Layout
from runtime.index.catalogue import PATIENCE, Catalogue, SegmentRow
from runtime.index.ids import duplicate, ids_of, unknown
from runtime.index.merging import compaction_cut, segments_to_merge
from runtime.index.opening import load_part
from runtime.index.origin import Origin
from runtime.index.reading import STRANGERS, IndexReader
from runtime.index.schema import SEGMENT_PREFIX, temporary_prefix
from runtime.index.segment import Segment, check_large_files, store_of, write_segment
from runtime.index.strangers import SAMPLE, Strangers
from runtime.index.verification import CATALOGUE, verify
from runtime.io.files import exchange, folder_obstacle, reason, sync_folder

EXISTING = ("error", "skip", "replace")  # what an addition does with ids that are in the index already


class Index(IndexReader):
    """An open index directory: the images of one commit, and the only way to add and remove images.

    Any thread may use it. Searches run at the same time as everything else; all other calls wait for each other.

    If the path leads elsewhere than when the index was opened, nothing is written.
    """

    def __init__(self, path: str | Path, *, wait: float = PATIENCE) -> None:
        """Opens an existing index.

        Args:
            path: of its folder, or of a symbolic link to it.
            wait: seconds that ``add``, ``remove`` and ``compact`` wait for another writer to end.

        Raises:
            HowlError: it is missing or damaged; the line names the file.
        """
        super().__init__(path)
        self._wait = wait

    @classmethod
    def of_engine(
        cls, path: Path, engine: Path, fingerprint: str, layout: Layout, *, wait: float = PATIENCE
    ) -> "Index":
        """Opens an index for an engine. Raises IncompatibleError if it was made with one of another fingerprint."""
        index = cls(path, wait=wait)
        if index.fingerprint != fingerprint or not index.layout.fits(layout):
            index.close()
            raise IncompatibleError(
                f"{path} was made with another engine than {engine}: use that one, or index the photos again"
            )
        return index

    @classmethod
    def create(cls, path: Path, *, fingerprint: str, layout: Layout, wait: float = PATIENCE) -> "Index":
        """Makes an empty index for the engines of one fingerprint, in a new or empty folder, and opens it."""
        store_of(layout)
        try:
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            for folder in made:
                sync_folder(folder.parent)
            _refuse_other_content(path)
            Catalogue.create(path / CATALOGUE, fingerprint, layout)
            sync_folder(path)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: cannot make an index here: {reason(error)}") from None
        return cls(path, wait=wait)

    @classmethod
    def ensure_possible(cls, path: Path) -> None:
        """Checks whether an index can be made, before the work that fills it. Raises HowlError if it cannot."""
        try:
            obstacle = folder_obstacle(path.absolute())
            if obstacle is None and path.exists():
                _refuse_other_content(path)
        except (OSError, ValueError) as error:
            obstacle = reason(error)
        if obstacle is not None:
            raise StorageError(f"{path}: cannot make an index here: {obstacle}; name another folder")

    @classmethod
    def replace(cls, path: str | Path, new: str | Path, *, wait: float = PATIENCE) -> None:
        """Puts an index in the place of another one, atomically; afterwards that one lies at ``new``.

        At every moment there is one whole index at ``path``. Processes that hold it open search on in the old one, and
        take up the new one at their next ``refresh``. A second call undoes the first.

        Args:
            path: of the index that is searched.
            new: of the index that is to be searched, on the same file system.
            wait: seconds, for a writer of either to end.

        Raises:
            IncompatibleError: the two are of different engines, or do not keep the same of a photo.
            WriterBusyError: a process is writing to one of them.
            StorageError: the folders cannot be exchanged.
        """
        with closing(cls(path, wait=wait)) as old, closing(cls(new, wait=wait)) as other:
            if (old.fingerprint, old.layout) != (other.fingerprint, other.layout):
                what = "of another engine" if old.fingerprint != other.fingerprint else "with other regions or geometry"
                raise IncompatibleError(f"{new}: an index {what} than {path}; it cannot take its place")
            if old._folder == other._folder:
                raise UsageError(f"{new}: is the index at {path} itself; name another one")
            try:
                with old._catalogue.writing(wait), other._catalogue.writing(wait):
                    for index in (old, other):
                        index._require_place("nothing was replaced")
                    exchange(old._folder, other._folder)
            except (OSError, sqlite3.Error) as error:
                raise StorageError(f"{path}: cannot be exchanged with {new}: {reason(error)}") from None

    def ensure_writable(self) -> None:
        """Checks whether the index can be written, before the work that is to be added; a busy writer may end by then.

        Raises:
            ReplacedError: the path leads to another index by now.
            StorageError: the disk is read-only, or there is no permission.
        """
        with self._lock:
            self._require_place("nothing was added")
            if not all(os.access(place, os.W_OK) for place in (self._folder, self._folder / CATALOGUE)):
                raise StorageError(f"{self.path}: no permission to write, or a read-only disk; nothing was added")

    def add(
        self,
        ids: Iterable[str | os.PathLike[str]],
        images: Iterable[Any],
        *,
        origins: Iterable[Origin | None] | None = None,
        existing: str = "error",
        wait: float | None = None,
    ) -> list[str]:
        """Adds images in one commit: either all of them are on the disk when this returns, or none.

        Small segments are merged afterwards, in commits of their own.

        Args:
            ids: of the images.
            images: as the ``FirstStage`` of the index's method encodes them.
            origins: the files that they came from; None for none.
            existing: what becomes of ids that are in the index already: ``error``, ``skip`` (the image of before
                stays) or ``replace`` (it goes in the same commit).
            wait: seconds, for another writer to end; None for those of the index.

        Returns:
            the ids that were added: all but those that were skipped.

        Raises:
            HowlError: an id is in the index already or named twice, another process is writing, or the disk is full or
                cannot be written.
        """
        ids, images, origins = self._addition(ids, images, origins)
        one_of("existing", existing, EXISTING)
        if not ids:
            return []
        with self._writing("nothing was added", wait) as written:
            if known := self._catalogue.existing(ids):
                if existing == "error":
                    raise duplicate(self.path, known[0])
                if existing == "replace":
                    self._catalogue.remove(known)
                else:
                    there = set(known)
                    new = [id_ not in there for id_ in ids]
                    ids, images, origins = (list(compress(each, new)) for each in (ids, images, origins))
            first = self._catalogue.add_images(ids, origins)
            for start in range(0, len(ids), MAX_IMAGES):
                part = slice(start, start + MAX_IMAGES)
                segment = Segment.build(ids[part], images[part], first + start, self.layout)
                self._write(segment, first + start, first + start + len(segment), written)
        self._merge()
        return ids

    def remove(self, ids: Iterable[str | os.PathLike[str]], *, root: Path | None = None) -> None:
        """Removes images in one commit: no search finds them again. ``compact`` frees their space.

        Args:
            ids: ids, or paths of photos: ``named``.
            root: as in ``named``.

        Raises:
            HowlError: an id is not in the index (then none is removed), another process is writing, or the disk is
                full or cannot be written.
        """
        given = ids_of(ids)
        with self._writing("nothing was removed"):
            names = self.named(given, root)
            known = set(self._catalogue.existing(names))
            if missing := [name for name in names if name not in known]:
                raise unknown(self.path, missing[0])
            self._catalogue.remove(names)

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
        with self._lock:
            self._require_place("nothing was compacted")
            self._load_commit()
        done, end = 0, max((int(segment.ordinals[-1]) + 1 for segment, _ in self.parts()), default=0)
        while done < end:
            done, images = self._compact_some(done, end)
            progress(images)

    def verify(self) -> list[str]:
        """All damage to the index on the disk, in lines that name the file: ``runtime.index.verification``."""
        return verify(self.path).damages

    def measure_strangers(self, queries: Mapping[str, Any], settings: Mapping[str, Any]) -> Strangers | None:
        """Measures what photos of different places score, and writes it. Raises HowlError as ``remove`` does.

        Args:
            queries: images of the index, encoded as queries, by id; 64 are enough.
            settings: of the search.
        """
        strangers = Strangers.measure(self, list(queries.values())[:SAMPLE], settings)
        if strangers is not None:
            with self._writing("the scores of strangers were not kept"):
                self._catalogue.write_metadata(STRANGERS, strangers.as_json())
        return strangers

    def _load(self, row: SegmentRow) -> Segment:
        return load_part(self._folder, row, self.layout, self._parts).segment

    def _require_place(self, failure: str) -> None:
        """Raises ReplacedError if the path leads elsewhere: nothing may be written or deleted there."""
        if not self._is_in_place():
            raise ReplacedError(
                f"{self.path}: {failure}: replaced, moved or deleted since it was opened; refresh() looks again"
            )

    @contextmanager
    def _writing(self, failure: str, wait: float | None = None) -> Iterator[list[str]]:
        """The writer's commit; the index is refreshed at its end.

        Args:
            failure: the outcome to report if the disk is full or cannot be written.
            wait: seconds, for another writer to end; None for those of the index.

        Yields:
            a list for the names of the segments that are written: if the block fails, they are deleted.
        """
        written: list[str] = []
        replaced: set[str] = set()
        with self._lock:
            try:
                with self._catalogue.writing(self._wait if wait is None else wait):
                    self._require_place(failure)
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
            try:
                self._load_commit()
            except HowlError:
                if self._is_in_place():
                    raise  # else the index was replaced right after the commit, which is in it all the same
            self._discard(replaced)

    def _write(self, segment: Segment, start: int, stop: int, written: list[str]) -> None:
        """Writes the segment that is to answer for the ordinals from start to stop, within ``_writing``."""
        written.append(f"{self._own_prefix()}{uuid.uuid4().hex[:16]}")
        checksums = write_segment(self._folder / written[-1], segment)
        self._catalogue.add_segment(
            written[-1], start, stop, images=len(segment), entries=segment.store.entries, checksums=checksums
        )

    def _rewrite(self, rows: Sequence[SegmentRow], stop: int, written: list[str]) -> None:
        """Moves the images of neighbouring segments below ordinal ``stop`` into a new one, within ``_writing``."""
        for row in rows:
            # A new checksum of damaged data would hide the damage for ever.
            check_large_files(self._folder / row.name, row.checksums, self.layout)
        parts = [self._load(row) for row in rows]
        kept = [row.live(part.ordinals) & (part.ordinals < stop) for row, part in zip(rows, parts, strict=True)]
        self._catalogue.release(rows[0].start, stop)
        if any(keep.any() for keep in kept):
            self._write(Segment.merge(parts, kept), rows[0].start, stop, written)

    def _merge(self) -> None:
        """Merges the segments that ``segments_to_merge`` names. If that fails, the images are there all the same."""
        try:
            while segments_to_merge(self._live_counts()):
                with self._writing("its segments were not merged", wait=0) as written:
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

    def _own_prefix(self) -> str:
        """How the names of this index's segments begin: no writer deletes those of another index."""
        return f"{SEGMENT_PREFIX}{self._catalogue.id}"

    def _sweep(self) -> None:
        """Deletes what killed writers left behind; only the current writer may call it."""
        self._discard({folder.name for folder in self._folder.glob(f"{self._own_prefix()}*")})
        for file in self._folder.glob(f"{temporary_prefix(self._folder / CATALOGUE)}*"):
            file.unlink(missing_ok=True)

    def _discard(self, names: Collection[str]) -> None:
        """Deletes the named segments, except live ones: an interrupt may come after the commit."""
        live = self._catalogue.segment_names()
        for name in names:
            if name not in live:
                shutil.rmtree(self._folder / name, ignore_errors=True)


def _refuse_other_content(path: Path) -> None:
    """Raises UsageError if a folder holds anything but catalogues that were never finished."""
    if not all(entry.name.startswith(temporary_prefix(path / CATALOGUE)) for entry in path.iterdir()):
        raise UsageError(f"{path}: not empty, and not an index; name a new folder")
