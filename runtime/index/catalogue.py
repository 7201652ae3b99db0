"""The catalogue: the SQLite file that names an index's live segments, ids and removals, and commits atomically."""

import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.geometry import FORM
from runtime.asmk.regions import MAX_LEVELS
from runtime.errors import DamagedError, IncompatibleError, MissingError, StorageError, WriterBusyError
from runtime.first_stage import MAX_DIMENSIONS, Layout
from runtime.index.arrays import HINT, Checksum
from runtime.index.ids import check_unicode
from runtime.index.origin import Origin
from runtime.index.schema import (
    LEAST_VERSION,
    VERSION,
    decode_checksums,
    encode_checksums,
    segment_name,
    temporary_prefix,
    write_empty,
)
from runtime.index.segment import segment_files

DISK_REFUSES = {  # SQLite's codes for what is no fault of the file
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
PATIENCE = 10.0  # seconds that a reader waits for a commit to finish, and a commit for readers of the catalogue
POLLING = 0.05  # seconds between two attempts of a writer to become the one
_OF_PARENTS: list[sqlite3.Connection] = []  # connections from before a fork, which must not be closed here
COMPARISONS = 10  # of two views of a catalogue: another is needed only if a writer commits between them
BATCH = 500  # values in one query: old versions of SQLite allow 999 parameters


@dataclass(frozen=True)
class SegmentRow:
    """What the catalogue knows about a live segment.

    Attributes:
        name: of its folder.
        start: the first ordinal that it answers for.
        stop: the ordinal after the last.
        images: stored in it, including those that were removed or moved to another segment.
        entries: of its store.
        checksums: of its files.
        removed: int64 [r], ascending, the ordinals of its images that were removed.
    """

    name: str
    start: int
    stop: int
    images: int
    entries: int
    checksums: dict[str, Checksum]
    removed: NDArray[np.int64]

    def live(self, ordinals: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the segment's images, with these ordinals [n], are in the index: bool [n]."""
        live = (ordinals >= self.start) & (ordinals < self.stop)
        if len(self.removed):
            live &= ~np.isin(ordinals, self.removed)
        return live


class Catalogue:
    """One open catalogue. Any thread may use it, one at a time.

    Attributes:
        path: of the file.
        id: of the index, drawn when it was made; the names of its segments begin with it.
        layout: of the index.
    """

    def __init__(self, path: Path) -> None:
        """Opens an existing catalogue. Raises HowlError if it is missing, damaged or of another format."""
        self.path = path
        with self._errors():
            if path.exists() and not path.is_file():
                raise DamagedError(f"{path}: not a file; {HINT}")
            if not path.exists():
                raise MissingError(f"{path.parent}: no index here; howl index ENGINE PHOTOS --index DIR makes one")
            self._file = _file_number(path)
            self._connection = _connect(path)
        try:
            self._check_version()
            self._check_file()
            self.id = self.metadata("id")
            self.layout = self._layout()
            self._files = segment_files(self.layout)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, fingerprint: str, layout: Layout) -> None:
        """Makes an empty catalogue atomically, and never replaces another. Raises OSError or sqlite3.Error."""
        temporary = path.with_name(f"{temporary_prefix(path)}{uuid.uuid4().hex}")
        try:
            write_empty(temporary, fingerprint, layout)
            try:
                # Unlike a rename, a link does not replace what another process has made meanwhile.
                path.hardlink_to(temporary)
            except OSError:
                if path.exists():
                    raise
                temporary.replace(path)  # not every file system has links
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        self._connection.close()

    def connect_anew(self) -> None:
        """After a fork. The connection of before is left as it is: it is the parent's."""
        try:
            if _file_number(self.path) == self._file:
                _OF_PARENTS.append(self._connection)
                self._connection = _connect(self.path)
        except (OSError, sqlite3.Error):  # the index is gone, as the next call will say
            pass

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this very file, and it holds what this catalogue takes it to hold.

        An open file keeps its number from all others. If another index was copied over it, SQLite may not notice, and
        go on with the pages that it remembers: a new connection reads them again.
        """
        try:
            if _file_number(path) != self._file:
                return False
            with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as anew:
                for _ in range(COMPARISONS):
                    id_, segments = _identity(anew)
                    if id_ != self.id:
                        return False
                    if (id_, segments) == _identity(self._connection):
                        return True
            return False
        except (OSError, ValueError, sqlite3.Error):
            return False

    def _layout(self) -> Layout:
        dimensions = self.number("dimensions")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise DamagedError(f"{self.path}: damaged: descriptors of {str(dimensions)[:80]} dimensions; {HINT}")
        geometry = self.find_metadata("geometry") or "no"  # indexes of format 4 do not say it
        if geometry not in ("no", FORM):
            raise IncompatibleError(
                f"{self.path}: keeps where features lie in a form that this version of howl does not read "
                f"({geometry[:80]}); make an index of the photos anew"
            )
        regions = 0 if self.find_metadata("regions") is None else self.number("regions")  # format 5 does not say it
        if not 0 <= regions <= MAX_LEVELS:
            raise DamagedError(f"{self.path}: damaged: {str(regions)[:80]} levels of regions; {HINT}")
        return Layout(self.metadata("method"), dimensions, geometry=geometry == FORM, regions=regions)

    def _check_file(self) -> None:
        """Raises DamagedError if the file is cut short, of which SQLite reads the rest as zeros, or else damaged."""
        with self.reading(), self._errors():
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            (page,) = self._connection.execute("PRAGMA page_size").fetchone()
            if (found := self.path.stat().st_size) < pages * page:
                raise ValueError(f"{found} bytes instead of {pages * page}")
            lines = [line for (line,) in self._connection.execute("PRAGMA quick_check(1)")]
            if lines != ["ok"]:
                raise ValueError(lines[0])

    def _check_version(self) -> None:
        with self._errors():
            tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
        # Format 1 called this table `about`.
        version = 1 if "about" in tables and "metadata" not in tables else self.number("version")
        if version > VERSION:
            raise IncompatibleError(
                f"{self.path}: index format {version} is newer than this howl reads ({VERSION}); update howl"
            )
        if version < LEAST_VERSION:
            raise IncompatibleError(
                f"{self.path}: index format {version} of an earlier howl, this one reads {LEAST_VERSION} to {VERSION}; "
                "index the photos again"
            )

    def metadata(self, key: str) -> str:
        """A value written when the index was made. Raises HowlError if it is missing."""
        value = self.find_metadata(key)
        if value is None:
            raise DamagedError(f"{self.path}: damaged: it does not say its {key}")
        return value

    def find_metadata(self, key: str) -> str | None:
        """A value that may have been written."""
        with self._errors():
            row = self._connection.execute("SELECT value FROM metadata WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def number(self, key: str) -> int:
        """A whole number written when the index was made."""
        with self._errors():
            return int(self.metadata(key))

    # --------------------------------------------------------------------------------------------- reading

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A block that sees one commit; writers wait for its end before they commit."""
        with self._errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with self._errors():
                self._connection.execute("COMMIT")

    def segments(self) -> list[SegmentRow]:
        """The live segments, in the order of addition; call it within ``reading`` or ``writing``."""
        with self._errors():
            removed = self.removed()
            rows = self._connection.execute(
                "SELECT start, stop, name, images, entries, checksums FROM segments ORDER BY start"
            ).fetchall()
            found: list[SegmentRow] = []
            for start, stop, name, images, entries, checksums in rows:
                start, stop = int(start), int(stop)
                if not (found[-1].stop if found else 0) <= start < stop:
                    raise ValueError(f"a segment answers for the images from {start} to {stop}")
                first, last = np.searchsorted(removed, [start, stop])
                files = decode_checksums(checksums, self._files)
                row = SegmentRow(segment_name(name), start, stop, int(images), int(entries), files, removed[first:last])
                found.append(row)
            return found

    def removed(self) -> NDArray[np.int64]:
        """The ordinals of all images that were removed and are still stored, int64 [r], ascending."""
        with self._errors():
            ordinals = self._connection.execute("SELECT number FROM removed ORDER BY number")
            return np.fromiter((number for (number,) in ordinals), np.int64)

    def segment_names(self) -> set[str]:
        """The names of the live segments."""
        with self._errors():
            return {segment_name(name) for (name,) in self._connection.execute("SELECT name FROM segments")}

    def images(self) -> tuple[NDArray[np.int64], list[str]]:
        """Ordinals, int64 [n], and ids of all live images, in the order of addition."""
        with self._errors():
            rows = self._connection.execute("SELECT number, id FROM images ORDER BY number").fetchall()
            return np.array([number for number, _ in rows], np.int64), [str(id_) for _, id_ in rows]

    def existing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that are in the index. Raises HowlError if one is not valid Unicode."""
        check_unicode(self.path.parent, ids)
        found = {id_ for (id_,) in self._images_with("id", ids, "id")}
        return [id_ for id_ in ids if id_ in found]

    def numbers(self, ids: Sequence[str]) -> dict[str, int]:
        """The ordinals of images, by id; those that are not in the index are left out."""
        check_unicode(self.path.parent, ids)
        return dict(self._images_with("id", ids, "id, number"))

    def origins(self, ids: Sequence[str]) -> dict[str, Origin | None]:
        """The files that images came from, by id; None where it was no file."""
        check_unicode(self.path.parent, ids)
        rows = self._images_with("id", ids, "id, place, size, modified")
        return {id_: None if place is None else Origin(place, size, modified) for id_, place, size, modified in rows}

    def ids_at(self, places: Sequence[int]) -> dict[int, str]:
        """An image that came from the file at each of these places, as ``Origin`` numbers them, as far as there are."""
        return dict(self._images_with("place", places, "place, id"))

    def below(self, folder: str) -> list[str]:
        """The ids of the images in a folder, by their ids as paths, in the order of the alphabet.

        Paths that do not begin with ``/`` lie in the folder ``.``, if they do not lead out of it by ``..``.
        """
        check_unicode(self.path.parent, [folder])
        start = folder.rstrip("/") + "/"
        condition, values = "id >= ? AND id < ?", (start, start[:-1] + chr(ord("/") + 1))
        if folder == ".":
            condition, values = "id NOT LIKE ? AND id NOT LIKE ?", ("/%", "../%")
        with self._errors():
            rows = self._connection.execute(f"SELECT id FROM images WHERE {condition} ORDER BY id", values)
            return [id_ for (id_,) in rows]

    def _images_with(self, column: str, values: Sequence[Any], wanted: str) -> list[tuple]:
        """The wanted columns of all images whose ``column`` is one of the values."""
        rows: list[tuple] = []
        for start in range(0, len(values), BATCH):
            some = values[start : start + BATCH]
            query = f"SELECT {wanted} FROM images WHERE {column} IN ({','.join('?' * len(some))})"
            with self._errors():
                rows += self._connection.execute(query, some)
        return rows

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file itself, one line each."""
        with self._errors():
            lines = [" ".join(line.split()) for (line,) in self._connection.execute("PRAGMA integrity_check")]
        return [line for line in lines if line != "ok"]

    # --------------------------------------------------------------------------------------------- writing

    @contextmanager
    def writing(self, wait: float) -> Iterator[None]:
        """The one writer's transaction: committed at its end, undone by an exception or a kill.

        Args:
            wait: seconds, for another writer to end.

        Raises:
            WriterBusyError: another process is still writing.
            sqlite3.Error: the disk is full or cannot be written.
        """
        # Not SQLite's own timeout, which no Ctrl-C interrupts.
        end = time.monotonic() + wait
        while not self._begin():
            if time.monotonic() >= end:
                raise WriterBusyError(
                    f"{self.path.parent}: another process is writing to it; try again later, or wait longer"
                )
            time.sleep(POLLING)
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # report the first error; whoever opens the file next rolls back
                    self._connection.execute("ROLLBACK")
            raise

    def _begin(self) -> bool:
        """Begins the writer's transaction, unless another process is in its own."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            return False
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * PATIENCE)}")
        return True

    # Call the methods below within `writing`. They raise sqlite3.Error if the disk is full or cannot be written.

    def add_images(self, ids: Sequence[str], origins: Sequence[Origin | None]) -> int:
        """Gives new images their ordinals, and returns the first."""
        (first,) = self._connection.execute("SELECT COALESCE(MAX(stop), 0) FROM segments").fetchone()
        rows = (
            (id_, number, *((None,) * 3 if origin is None else astuple(origin)))
            for id_, number, origin in zip(ids, count(first), origins, strict=False)
        )
        self._connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?)", rows)
        return first

    def add_segment(
        self, name: str, start: int, stop: int, *, images: int, entries: int, checksums: dict[str, Checksum]
    ) -> None:
        """Makes a segment that is on the disk live."""
        row = (name, start, stop, images, entries, encode_checksums(checksums))
        self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", row)

    def release(self, start: int, stop: int) -> None:
        """Makes no segment answer for these ordinals any more; one that also answers for later ones keeps those.

        Args:
            start: the first ordinal, at which a segment starts.
            stop: the ordinal after the last.
        """
        self._connection.execute("DELETE FROM segments WHERE start >= ? AND stop <= ?", (start, stop))
        self._connection.execute("UPDATE segments SET start = ? WHERE start >= ? AND start < ?", (stop, start, stop))
        self._connection.execute("DELETE FROM removed WHERE number >= ? AND number < ?", (start, stop))

    def remove(self, ids: Sequence[str]) -> None:
        """Marks images as removed."""
        rows = [(id_,) for id_ in ids]
        self._connection.executemany("INSERT INTO removed SELECT number FROM images WHERE id = ?", rows)
        self._connection.executemany("DELETE FROM images WHERE id = ?", rows)

    def write_metadata(self, key: str, value: str) -> None:
        """Writes a value in the place of the one before, if there is one."""
        self._connection.execute("INSERT OR REPLACE INTO metadata VALUES (?, ?)", (key, value))

    def shrink(self) -> None:
        """Returns unused pages to the disk."""
        self._connection.execute("PRAGMA incremental_vacuum").fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        # ValueError and the like mean stored values that make no sense.
        except (sqlite3.Error, OSError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            why = " ".join(str(error).split())
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
                why = "a writer was killed, and its commit cannot be undone on a read-only disk; open it where it can"
            line = f"{self.path}: the catalogue cannot be used: {why}"
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise WriterBusyError(f"{self.path.parent}: another process keeps it locked; try again later") from None
            if isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in DISK_REFUSES:
                raise StorageError(line) from None
            raise DamagedError(f"{line}; {HINT}") from None


def _connect(path: Path) -> sqlite3.Connection:
    """A connection whose transactions this module begins and ends, not the sqlite3 module."""
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    # A commit deletes SQLite's journal. FULL does not sync the folder afterwards, so a power loss could bring the
    # journal back and undo an acknowledged commit. EXTRA does sync it.
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _identity(connection: sqlite3.Connection) -> tuple[str, list]:
    """What tells the commits of a catalogue from those of any other: the index's id, and its segments."""
    ((id_,),) = connection.execute("SELECT value FROM metadata WHERE key = 'id'")
    return id_, connection.execute("SELECT name FROM segments ORDER BY name").fetchall()


def _file_number(path: Path) -> tuple[int, int]:
    """What tells a file from all others that exist at the same time."""
    status = path.stat()
    return status.st_dev, status.st_ino
