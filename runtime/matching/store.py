"""Keypoints of an index's photos, kept beside it, so that a search need not find them again.

x.index.keypoints       of a matcher's detector: ``howl index --matcher``
x.index.features        the engine's own local features: ``howl index --keep-features``
x.index.ellipses        the ellipses in its activation maps: the same option
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from runtime.errors import DamagedError, ImageError, IncompatibleError, StorageError
from runtime.forking import renew_after_fork
from runtime.index.origin import Origin
from runtime.io.prefetch import prefetch_map
from runtime.matching.keypoints import Detector, Keypoints

SCHEMA = """
CREATE TABLE about (fingerprint TEXT NOT NULL);
CREATE TABLE keypoints (
    id TEXT PRIMARY KEY, bytes INTEGER, modified INTEGER,
    width INTEGER NOT NULL, height INTEGER NOT NULL, orientation INTEGER NOT NULL,
    positions BLOB NOT NULL, descriptors BLOB NOT NULL
) WITHOUT ROWID;
"""
BATCH = 16  # photos that are written together


@dataclass(frozen=True)
class Kind:
    """Which keypoints a file has.

    Attributes:
        name: the file's suffix, and what they are for people.
        finder: what found them.
        option: of ``howl index``, which keeps them.
    """

    name: str
    finder: str
    option: str

    def path(self, index: Path) -> Path:
        """Where those of an index's photos are kept."""
        return index.with_name(f"{index.name}.{self.name}")

    @property
    def again(self) -> str:
        """What to do about a file that is of no use."""
        return f"delete it, and howl index {self.option} makes it again"


OF_MATCHER = Kind("keypoints", "matcher", "--matcher")
OF_ENGINE = Kind("features", "engine", "--keep-features")
OF_ACTIVATIONS = Kind("ellipses", "engine", "--keep-features")
KINDS = (OF_MATCHER, OF_ENGINE, OF_ACTIVATIONS)


class KeypointStore:
    """A file of keypoints, by the ids of photos. Any thread and any number of processes may read it.

    Positions are float32 and descriptors float16: with 2,048 keypoints of 64 dimensions, 280 kB a photo, and with 1,000
    features of 128 dimensions 264 kB.
    """

    def __init__(self, path: Path, fingerprint: str, kind: Kind = OF_MATCHER, *, make: bool = False) -> None:
        """Opens a file of keypoints.

        Args:
            path: of the file.
            fingerprint: of the matcher or the engine that found them.
            kind: which of the two that is.
            make: whether it is made if it is not there.

        Raises:
            HowlError: it is missing, damaged, or of another matcher or engine.
        """
        self.path = path
        self.kind = kind
        self._fingerprint = fingerprint
        self._make = make
        self._lock = Lock()
        self._connection = self._connect()
        renew_after_fork(self)

    @classmethod
    def beside(cls, index: Path, fingerprint: str, kind: Kind = OF_MATCHER) -> "KeypointStore | None":
        """The keypoints that are kept beside an index, or None if there are none. Raises HowlError as the class."""
        path = kind.path(index)
        return cls(path, fingerprint, kind) if path.exists() else None

    def renew_after_fork(self) -> None:
        """Connects anew: SQLite's connections cannot be forked."""
        self._lock = Lock()
        self._connection = self._connect()

    def close(self) -> None:
        self._connection.close()

    def find(self, id_: str, origin: Origin | None) -> Keypoints | None:
        """The keypoints of a photo, if they are kept.

        Args:
            id_: of the photo.
            origin: its file as it is now; keypoints of what it was before are not found. None if it is not there any
                more, and what is kept is all that there is.
        """
        with self._naming(), self._lock:
            row = self._connection.execute(
                "SELECT bytes, modified, width, height, orientation, positions, descriptors "
                "FROM keypoints WHERE id = ?",
                (id_,),
            ).fetchone()
            if row is None or (origin is not None and (origin.size, origin.modified) != row[:2]):
                return None
            width, height, orientation, positions, descriptors = row[2:]
            xy = np.frombuffer(positions, np.float32).reshape(-1, 2)
            values = np.frombuffer(descriptors, np.float16).astype(np.float32)
            shape = len(xy), len(values) // max(1, len(xy))
            return Keypoints(xy, values.reshape(shape), (width, height), orientation)

    def missing(self, photos: Iterable[tuple[str, Origin | None]]) -> list[str]:
        """The ids of photos whose keypoints are not kept as ``find`` would give them."""
        with self._naming(), self._lock:
            rows = self._connection.execute("SELECT id, bytes, modified FROM keypoints").fetchall()
        kept = {id_: stamp for id_, *stamp in rows}
        return [
            id_
            for id_, origin in photos
            if id_ not in kept or (origin is not None and [origin.size, origin.modified] != kept[id_])
        ]

    def add(self, photos: Sequence[tuple[str, Origin | None, Keypoints]]) -> None:
        """Keeps the keypoints of photos, in one commit, instead of those that were kept of them."""
        rows = [
            (
                id_,
                None if origin is None else origin.size,
                None if origin is None else origin.modified,
                *found.size,
                found.orientation,
                found.positions.astype(np.float32).tobytes(),
                found.descriptors.astype(np.float16).tobytes(),
            )
            for id_, origin, found in photos
        ]
        with self._naming(), self._lock, self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO keypoints VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def keep_only(self, ids: Iterable[str]) -> int:
        """Forgets the keypoints of all other photos, and gives their number."""
        wanted = set(ids)
        with self._naming(), self._lock, self._connection:
            kept = [row[0] for row in self._connection.execute("SELECT id FROM keypoints")]
            gone = [(id_,) for id_ in kept if id_ not in wanted]
            self._connection.executemany("DELETE FROM keypoints WHERE id = ?", gone)
        return len(gone)

    def __len__(self) -> int:
        with self._naming(), self._lock:
            return self._connection.execute("SELECT count(*) FROM keypoints").fetchone()[0]

    @classmethod
    def verify(cls, path: Path, kind: Kind = OF_MATCHER) -> None:
        """Reads a whole file of keypoints, whatever found them. Raises DamagedError if SQLite finds a fault."""
        with (
            _naming(path, kind),
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection,
        ):
            faults = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
            connection.execute("SELECT fingerprint FROM about").fetchone()
        if faults:
            raise DamagedError(f"{path}: damaged ({faults[0]}); {kind.again}")

    def _connect(self) -> sqlite3.Connection:
        with self._naming():
            mode = "rwc" if self._make else "ro"
            place = self.path.absolute().as_uri()
            connection = sqlite3.connect(f"{place}?mode={mode}", uri=True, timeout=60, check_same_thread=False)
            if self._make and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.executescript(SCHEMA)
                with connection:
                    connection.execute("INSERT INTO about VALUES (?)", (self._fingerprint,))
            kept = connection.execute("SELECT fingerprint FROM about").fetchone()
        if kept != (self._fingerprint,):
            connection.close()
            raise IncompatibleError(f"{self.path}: {self.kind.name} of another {self.kind.finder}; {self.kind.again}")
        return connection

    def _naming(self) -> AbstractContextManager[None]:
        return _naming(self.path, self.kind)


@contextmanager
def _naming(path: Path, kind: Kind) -> Iterator[None]:
    """A block whose errors of SQLite become HowlErrors that name the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise DamagedError(f"{path}: no file of {kind.name}; {kind.again}") from None
        raise StorageError(f"{path}: {error}") from None
    except (sqlite3.DatabaseError, ValueError) as error:
        raise DamagedError(f"{path}: damaged ({error}); {kind.again}") from None


@dataclass
class KeepReport:
    """What became of photos whose keypoints were to be kept.

    Attributes:
        added: ids of photos whose keypoints were not kept before.
        unreadable: the reason, by id, of photos that cannot be read.
    """

    added: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def keep(
    store: KeypointStore,
    photos: Mapping[str, Path],
    detector: Detector,
    progress: Callable[[int], object] = lambda photos: None,
) -> KeepReport:
    """Makes a file hold the keypoints of these photos: of those that are new or changed, and of no others.

    It is written every few photos, so that a run that was interrupted goes on where it was.

    Args:
        store: the file.
        photos: by id; what is kept of one that is not there any more stays.
        detector: finds the keypoints.
        progress: is told how many photos were done.
    """
    report = KeepReport()
    origins = {id_: Origin.of(photo) for id_, photo in photos.items()}
    store.keep_only(photos)
    new = store.missing(origins.items())
    progress(len(photos) - len(new))

    def detect(id_: str) -> Keypoints | ImageError:
        try:
            return detector.detect(photos[id_])
        except ImageError as error:
            return error

    waiting: list[tuple[str, Origin | None, Keypoints]] = []
    for id_, found in prefetch_map(detect, new):
        if isinstance(found, ImageError):
            report.unreadable[id_] = str(found)
        else:
            waiting.append((id_, origins[id_], found))
        if len(waiting) == BATCH:
            store.add(waiting)
            report.added += [kept for kept, *_ in waiting]
            waiting.clear()
        progress(1)
    store.add(waiting)
    report.added += [kept for kept, *_ in waiting]
    return report
