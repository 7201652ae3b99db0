"""The catalogue: the SQLite file that names an index's live segments, ids and removals, and commits atomically."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import HowlError
from runtime.index.segment import FileSum

VERSION = 1
PATIENCE = 10.0  # seconds that a reader waits for a commit to finish

SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,              -- order of addition
    images INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    sums TEXT NOT NULL                      -- {file: [size, crc32]}
) WITHOUT ROWID;
CREATE TABLE images (id TEXT PRIMARY KEY, segment TEXT NOT NULL, local INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE removed (segment TEXT NOT NULL, local INTEGER NOT NULL, PRIMARY KEY (segment, local)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class SegmentRow:
    """What the catalogue knows of a live segment: its files' sums, and which of its images were removed."""

    name: str
    images: int
    entries: int
    sums: dict[str, FileSum]
    removed: tuple[int, ...]


class Catalogue:
    """One open catalogue."""

    def __init__(self, path: Path) -> None:
        """Opens an existing catalogue. Raises HowlError where it is missing, damaged or of a newer format."""
        self.path = path
        if not path.exists():
            raise HowlError(f"{path.parent}: no index here; python tools/index.py ENGINE PHOTOS --index DIR makes one")
        # Transactions are begun and ended here, not by the module.
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
        version = self.number("version")
        if version > VERSION:
            raise HowlError(f"{path}: index format {version} is newer than this howl reads ({VERSION}); update howl")

    @classmethod
    def create(cls, path: Path, about: dict[str, str]) -> "Catalogue":
        """Makes an empty catalogue, whole or not at all."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary)
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")  # a kill leaves one file behind, not two
            connection.executescript(SCHEMA)
            rows = {**about, "version": str(VERSION)}
            connection.executemany("INSERT INTO about VALUES (?, ?)", rows.items())
            connection.commit()
        finally:
            connection.close()
        temporary.replace(path)
        return cls(path)

    def close(self) -> None:
        self._connection.close()

    def about(self, key: str) -> str:
        """A value written when the index was made."""
        with self._errors():
            row = self._connection.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise HowlError(f"{self.path}: damaged: it does not say its {key}")
        return row[0]

    def number(self, key: str) -> int:
        """A whole number written when the index was made."""
        with self._errors():
            return int(self.about(key))

    def segments(self) -> list[SegmentRow]:
        """The live segments as of one commit, in the order of their addition."""
        with self._errors(), self._transaction("BEGIN"):
            removed: dict[str, list[int]] = {}
            for segment, local in self._connection.execute("SELECT segment, local FROM removed"):
                removed.setdefault(segment, []).append(local)
            rows = self._connection.execute(
                "SELECT name, images, entries, sums FROM segments ORDER BY position"
            ).fetchall()
            return [
                SegmentRow(
                    name,
                    images,
                    entries,
                    {file: FileSum(*values) for file, values in json.loads(sums).items()},
                    tuple(removed.get(name, ())),
                )
                for name, images, entries, sums in rows
            ]

    def segment_names(self) -> set[str]:
        """The names of the live segments."""
        with self._errors():
            return {name for (name,) in self._connection.execute("SELECT name FROM segments")}

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that are in the index. Raises HowlError where one is no Unicode text."""
        for id_ in ids:
            if not is_unicode(id_):
                raise HowlError(f"{self.path.parent}: {id_!r} is no Unicode text; rename the file, or give it an id")
        with self._errors():
            find = "SELECT 1 FROM images WHERE id = ?"
            return [i for i in ids if self._connection.execute(find, (i,)).fetchone()]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The one writer's transaction: committed at its end, undone by an exception or a kill.

        Raises:
            HowlError: another process is writing.
        """
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise HowlError(f"{self.path.parent}: another process is writing to it; try again later") from None
            raise HowlError(f"{self.path}: {error}") from None
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * PATIENCE)}")
        try:
            yield
            with self._errors():
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def add_segment(self, name: str, ids: Sequence[str], entries: int, sums: dict[str, FileSum]) -> None:
        """Names a segment and its images, within ``writing``."""
        encoded = json.dumps({file: [s.size, s.crc] for file, s in sums.items()})
        with self._errors():
            self._connection.execute(
                "INSERT INTO segments SELECT ?, 1 + COALESCE(MAX(position), 0), ?, ?, ? FROM segments",
                (name, len(ids), entries, encoded),
            )
            self._connection.executemany(
                "INSERT INTO images VALUES (?, ?, ?)", ((id_, name, local) for local, id_ in enumerate(ids))
            )

    def remove(self, ids: Sequence[str]) -> None:
        """Marks images removed, within ``writing``."""
        with self._errors():
            for id_ in ids:
                self._connection.execute("INSERT INTO removed SELECT segment, local FROM images WHERE id = ?", (id_,))
                self._connection.execute("DELETE FROM images WHERE id = ?", (id_,))

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:  # the last two: values that make no sense
            line = " ".join(str(error).split())
            raise HowlError(f"{self.path}: the catalogue cannot be used: {line}") from None


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: the name of a file may hold bytes that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
