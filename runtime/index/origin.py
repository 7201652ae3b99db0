"""The file that an image came from, as it was then: whether it has changed since, and whether it has another id too."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """A file at one moment. The first attribute says which it is, the others change with its content.

    Attributes:
        place: ``place_of`` it, whatever links lead to it.
        size: bytes.
        modified: nanoseconds since 1970.
    """

    place: int
    size: int
    modified: int

    @classmethod
    def of(cls, photo: Any) -> "Origin | None":
        """The file of a photo; None for one that is no path, or that cannot be looked at."""
        if not isinstance(photo, str | os.PathLike):
            return None
        try:
            status = os.stat(photo)
            return cls(place_of(photo), status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            return None


def place_of(path: str | os.PathLike[str]) -> int:
    """A number of 64 bits, signed, that the real path of a file alone has; the file need not be there any more."""
    digest = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def ids_by_place(files: Mapping[str, Path]) -> dict[int, str]:
    """The ids of files, by their places (``Origin.place``); those that cannot be looked at are left out."""
    origins = ((id_, Origin.of(file)) for id_, file in files.items())
    return {origin.place: id_ for id_, origin in origins if origin is not None}
