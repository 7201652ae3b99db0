"""Files: opened only if they are files, written whole or not at all; and exchanging folders."""

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

from runtime.errors import StorageError


def open_file(path: Path) -> BufferedReader:
    """Opens a file to read. Raises OSError if it cannot be opened, or is a pipe or a device, which may never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises OSError as ``open_file``."""
    with open_file(path) as file:
        return file.read()


def ensure_writable(*paths: Path) -> None:
    """Checks whether files can be written, before the work that fills them. Raises StorageError if one cannot."""
    for path in paths:
        _ensure_writable(path)


def _ensure_writable(path: Path) -> None:
    try:
        obstacle = "it is a folder" if path.is_dir() else folder_obstacle(path.absolute().parent)
        if obstacle is None and path.exists() and not path.is_file():
            obstacle = "it is a pipe or a device"
    except (OSError, ValueError) as error:
        obstacle = reason(error)
    if obstacle is not None:
        raise StorageError(f"{path}: cannot be written: {obstacle}; name another --out")


def folder_obstacle(folder: Path) -> str | None:
    """Why no file can be made in a folder, which need not exist yet, in a few words; None if one can."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        return f"{existing} is a file"
    try:
        with NamedTemporaryFile(dir=existing, prefix=".howl."):
            return None
    except OSError as error:
        return f"no file can be made in {existing} ({reason(error)})"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes ``path`` at the end of the block, once it is on the disk.

    If the block fails or the process is killed, ``path`` stays as it was. Of a symbolic link, the file that it leads to
    is written.

    Raises:
        HowlError: the file cannot be written; the line names it.
    """
    place = Path(os.path.realpath(path))
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # already moved if all went well
            partial.unlink()


def exchange(a: Path, b: Path) -> None:
    """Gives each of two folders the other's name, in one step: nobody finds either name without a folder.

    Raises:
        OSError: the folders are on different file systems, or this system cannot exchange them.
    """
    # The flags of renameat2 (Linux) and renameatx_np (macOS), and the current folder in place of a folder's descriptor.
    name, here, flag = ("renameatx_np", -2, 2) if sys.platform == "darwin" else ("renameat2", -100, 2)
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None) if os.name == "posix" else None
    if function is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders in one step")
    if function(here, os.fsencode(a), here, os.fsencode(b), flag) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    for folder in {a.parent, b.parent}:
        sync_folder(folder)


def reason(error: Exception) -> str:
    """Why the operating system or SQLite refused, without the names of files."""
    return getattr(error, "strerror", None) or str(error)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's entries are on the disk."""
    if os.name == "nt":
        return  # Windows cannot sync a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
