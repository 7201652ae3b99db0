"""The format of a catalogue: its tables, an empty one, and how names and checksums are written in it."""

import json
import re
import sqlite3
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.asmk.geometry import FORM
from runtime.first_stage import Layout
from runtime.index.arrays import Checksum

VERSION, LEAST_VERSION = 6, 4  # that is written, and that can be read: 4 has no geometry, 5 no regions
SEGMENT_PREFIX = "segment-"
SEGMENT_NAME = re.compile(f"{SEGMENT_PREFIX}[0-9a-f]{{32}}")

SCHEMA = """
CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- Images are numbered in the order of their addition. A segment answers for the ordinals start <= number < stop.
CREATE TABLE segments (
    name TEXT PRIMARY KEY,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    images INTEGER NOT NULL,                -- stored, including those that were removed or moved since
    entries INTEGER NOT NULL,
    checksums TEXT NOT NULL                 -- {file: [size, crc32]}
) WITHOUT ROWID;
-- Of an image that came from a file, what ``Origin`` says of it.
CREATE TABLE images (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, place INTEGER, size INTEGER, modified INTEGER
) WITHOUT ROWID;
CREATE INDEX places ON images (place) WHERE place IS NOT NULL;
CREATE TABLE removed (number INTEGER PRIMARY KEY);
"""


def write_empty(path: Path, fingerprint: str, layout: Layout) -> None:
    """Writes a catalogue without images, and waits until it is on the disk."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = MEMORY")  # a kill leaves one file behind, not two
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # for `Catalogue.shrink`
        connection.executescript(SCHEMA)
        rows = {
            "id": uuid.uuid4().hex[:16],
            "fingerprint": fingerprint,
            "method": layout.method,
            "dimensions": str(layout.dimensions),
            "geometry": FORM if layout.geometry else "no",
            "regions": str(layout.regions),
            "version": str(VERSION),
        }
        connection.executemany("INSERT INTO metadata VALUES (?, ?)", rows.items())
        connection.commit()
    finally:
        connection.close()


def temporary_prefix(path: Path) -> str:
    """How the names of unfinished catalogues begin."""
    return f".{path.name}."


def segment_name(name: Any) -> str:
    """The name of a segment's folder. Raises ValueError if it is none: folders are opened and deleted by it."""
    if not isinstance(name, str) or SEGMENT_NAME.fullmatch(name) is None:
        raise ValueError(f"a segment is named {str(name)[:80]!r}")
    return name


def encode_checksums(checksums: dict[str, Checksum]) -> str:
    return json.dumps({file: [s.size, s.crc] for file, s in checksums.items()})


def decode_checksums(text: str, files: Sequence[str]) -> dict[str, Checksum]:
    """Raises ValueError, TypeError or LookupError if the text does not hold the checksums of these files."""
    checksums = json.loads(text)
    return {file: Checksum(*checksums[file]) for file in files}
