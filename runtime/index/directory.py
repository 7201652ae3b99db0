"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

import os
import shutil
import sqlite3
import threading
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import compress, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import one_of, place, whole_number_above_0
from runtime.errors import (
    DamagedError,
    HowlError,
    IncompatibleError,
    MissingError,
    ReplacedError,
    StorageError,
    UnknownIdError,
    UsageError,
    WriterBusyError,
)
from runtime.first_stage import MAX_IMAGES, Layout
from runtime.forking import renew_after_fork
from runtime.index.arrays import HINT
from runtime.index.catalogue import PATIENCE, SEGMENT_PREFIX, Catalogue, SegmentRow, temporary_prefix
from runtime.index.ids import check_ids, duplicate, id_of_path, ids_of
from runtime.index.merging import compaction_cut, segments_to_merge
from runtime.index.opening import Part, load_commit, load_part, open_at
from runtime.index.origin import Origin
from runtime.index.segment import Segment, check_large_files, store_of, write_segment
from runtime.index.strangers import Strangers
from runtime.index.verification import CATALOGUE, verify
from runtime.io.files import exchange, folder_obstacle, sync_folder

STRANGERS = "strangers"  # their name in the catalogue's metadata
EXISTING = ("error", "skip", "replace")  # what an addition does with ids that are in the index already


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


class Index:
    """An open index directory: the images of one commit, and the only way to add and remove images.

    Any thread may use it. Searches run at the same time as everything else; all other calls wait for each other.

    The folder is fixed when the index is opened. If the path leads elsewhere later, because the folder was replaced,
    moved or deleted or a symbolic link was changed, searches go on with what was opened, and nothing is written.

    Attributes:
        path: of the index, as it was named.
        fingerprint: of the engines whose features it holds.
        layout: of its segments.
    """

    def __init__(self, path: str | Path, *, wait: float = PATIENCE) -> None:
        """Opens an existing index.

        Args:
            path: of its folder, or of a symbolic link to it.
            wait: seconds that ``add``, ``remove`` and ``compact`` wait for another writer to end.

        Raises:
            HowlError: it is missing or damaged; the line names the file.
        """
        self.path = place("index", path)
        self._place = self.path.absolute()  # whatever the current folder is later
        self._wait = wait
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
    def of_engine(
        cls, path: Path, engine: Path, fingerprint: str, layout: Layout, *, wait: float = PATIENCE
    ) -> "Index":
        """Opens an index for an engine. Raises IncompatibleError if it was made with one of another fingerprint."""
        index = cls(path, wait=wait)
        if (index.fingerprint, index.layout) != (fingerprint, layout):
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
            IncompatibleError: the two are of different engines.
            WriterBusyError: a process is writing to one of them.
            StorageError: the folders cannot be exchanged.
        """
        with closing(cls(path, wait=wait)) as old, closing(cls(new, wait=wait)) as other:
            if (old.fingerprint, old.layout) != (other.fingerprint, other.layout):
                raise IncompatibleError(f"{new}: an index of another engine than {path}; it cannot take its place")
            if old._folder == other._folder:
                raise UsageError(f"{new}: is the index at {path} itself; name another one")
            try:
                with old._catalogue.writing(wait), other._catalogue.writing(wait):
                    for index in (old, other):
                        index._require_place("nothing was replaced")
                    exchange(old._folder, other._folder)
            except (OSError, sqlite3.Error) as error:
                raise StorageError(f"{path}: cannot be exchanged with {new}: {reason(error)}") from None

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether there is an index in a folder. Raises HowlError if the folder cannot be accessed."""
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

    def named(self, ids: Iterable[str | os.PathLike[str]], root: Path | None = None) -> list[str]:
        """The ids that ids or paths of photos stand for, each once: one that is in the index stands for itself.

        Args:
            ids: "./a.jpg" stands for "a.jpg".
            root: the folder from which the ids of paths are seen, as when they were added.

        Raises:
            IdError: a path lies outside ``root``.
        """
        texts = list(dict.fromkeys(ids_of(ids)))
        known = set(self.existing(texts))
        return list(dict.fromkeys(text if text in known else id_of_path(text, root) for text in texts))

    def below(self, folder: str) -> list[str]:
        """The ids that lie in a folder, as paths; ``.`` has all that are relative."""
        with self._lock:
            return self._catalogue.below(folder)

    def selected(self, names: Iterable[str | os.PathLike[str]], root: Path | None = None) -> list[str]:
        """``named``, where a folder stands for all ids that lie in it, named by its id or as a path."""
        return list(dict.fromkeys(id_ for name in ids_of(names) for id_ in self._selected(name, root)))

    def _selected(self, name: str, root: Path | None) -> list[str]:
        if self.existing([name]):
            return [name]
        if name and (below := self.below(str(Path(name)))):
            return below
        id_ = id_of_path(name, root)
        return [id_] if self.existing([id_]) else self.below(id_) or [id_]

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
        ids, images = ids_of(ids), list(images)
        origins = [None] * len(ids) if origins is None else list(origins)
        if not len(ids) == len(images) == len(origins):
            raise ValueError(f"{len(ids)} ids for {len(images)} images from {len(origins)} files")
        check_ids(self.path, ids)
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
                raise UnknownIdError(f"{self.path}: {missing[0]} is not in the index; nothing was removed")
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

    def search(
        self,
        query: Any,
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> list[Hit]:
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
        chosen = None if only is None else self._ordinals(only, "only", must_exist=True)
        without = self._ordinals(exclude, "exclude", must_exist=False)
        found: list[tuple[float, int, Segment]] = []
        for segment, live in self.parts():
            if chosen is not None:
                live = live & np.isin(segment.ordinals, chosen)
            if len(without):
                live = live & ~np.isin(segment.ordinals, without)
            images, scores = segment.best(query, live, top)
            found += zip(scores.tolist(), images.tolist(), repeat(segment), strict=False)
        found.sort(key=lambda hit: -hit[0])  # stable: equal scores stay in the order of addition
        return [Hit(segment.ids[image], score) for score, image, segment in found[:top]]

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

    def keep_strangers(self, strangers: Strangers) -> None:
        """Writes what was measured. Raises HowlError as ``remove`` does."""
        with self._writing("the scores of strangers were not kept"):
            self._catalogue.write_metadata(STRANGERS, strangers.as_json())

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

    def _load(self, row: SegmentRow) -> Segment:
        return load_part(self._folder, row, self.layout, self._parts).segment

    def _load_commit(self) -> None:
        self._parts = load_commit(self._folder, self._catalogue, self._parts)

    def _is_in_place(self) -> bool:
        """Whether the path still leads to the index that was opened."""
        return self._catalogue.is_at(self._place / CATALOGUE)

    def _require_place(self, failure: str) -> None:
        """Raises ReplacedError if the path leads elsewhere: nothing may be written or deleted there."""
        if not self._is_in_place():
            raise ReplacedError(
                f"{self.path}: {failure}: replaced, moved or deleted since it was opened; refresh() looks again"
            )

    def _open_replacement(self) -> None:
        """Opens what lies at the path by now; if that fails, searches go on with what was opened."""
        try:
            folder, catalogue, parts = open_at(self._place)
        except MissingError:
            raise ReplacedError(
                f"{self.path}: moved or deleted since it was opened; searches go on with what was opened"
            ) from None
        if (catalogue.metadata("fingerprint"), catalogue.layout) != (self.fingerprint, self.layout):
            catalogue.close()
            raise ReplacedError(
                f"{self.path}: replaced by an index of another engine; searches go on with what was opened"
            )
        self._catalogue.close()
        self._folder, self._catalogue, self._parts = folder, catalogue, parts

    def _live_counts(self) -> list[int]:
        return [int(live.sum()) for _, live in self.parts()]

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


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for a folder, or if a writer has just deleted it."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def reason(error: Exception) -> str:
    """Why the operating system or SQLite refused, without the names of files."""
    return getattr(error, "strerror", None) or str(error)
