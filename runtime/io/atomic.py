"""Writing files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from runtime.errors import StorageError


def ensure_writable(path: Path) -> None:
    """Checks whether a file can be written, before the work that fills it. Raises HowlError if it cannot."""
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise StorageError(f"{path}: cannot be written there; name another --out")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes ``path`` at the end of the block, once it is on the disk.

    If the block fails or the process is killed, ``path`` stays as it was.

    Raises:
        HowlError: the file cannot be written; the line names it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # already moved if all went well
            partial.unlink()
