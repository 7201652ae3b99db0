"""Array files: written with a checksum, checked before they are used; the large ones are memory-mapped."""

import ctypes
import io
import math
import mmap
import os
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from numpy.typing import NDArray

from runtime.errors import DamagedError
from runtime.io.files import open_file
from runtime.io.npy import parse_npy

READ_BYTES = 1 << 20  # at a time
# At a time. It is so large because Linux then keeps the file in huge pages, if the file system supports them: a search,
# which jumps through the whole file, is a fifth faster.
WRITTEN_BYTES = 64 << 20
HINT = "restore it from a backup, or index the photos again"


@dataclass(frozen=True)
class Checksum:
    """Size and CRC-32 of a file, as the catalogue keeps them."""

    size: int
    crc: int


def write_array(path: Path, array: NDArray) -> Checksum:
    """Writes a .npy file, waits until it is on the disk, and returns its checksum."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    size, crc = 0, 0
    with path.open("wb") as file:
        for chunk in (header.getbuffer(), *_chunks(array)):
            crc = zlib.crc32(chunk, crc)
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Checksum(size, crc)


def load_array(path: Path, expected: Checksum, dtype: npt.DTypeLike) -> NDArray:
    """An array [n], read whole into memory and checked to be, to the bit, what was written. It is read-only.

    Whatever becomes of the file later does not reach it. Of a full segment such arrays take about 5 MB.

    A right checksum says nothing of who wrote the file, so its header is not believed: ``parse_npy``.

    Raises:
        DamagedError: the file is missing, truncated or changed, or holds another array; the line names it.
    """
    with _opened(path) as file:
        _check_size(path, file, expected)
        content = file.read()
    _check_crc(path, zlib.crc32(content), expected)
    try:
        return parse_npy(content, dtype, axes=1)
    except ValueError as error:
        raise damaged(path, " ".join(str(error).split())) from None


def map_array(path: Path, expected: Checksum, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> NDArray:
    """A read-only memory map of an array, after a check of the file's size only.

    Its header is not read: dtype and shape are the caller's, so a flipped bit never leads outside the file. If the file
    is truncated later, reading the map ends the process, except in the loops of ``runtime.native`` that search.

    Raises:
        DamagedError: the file is missing or truncated; the line names it.
    """
    with _opened(path) as file:
        _check_size(path, file, expected)
        header = expected.size - np.dtype(dtype).itemsize * math.prod(shape)
        if header < 0:
            raise damaged(path, f"too small for {shape} numbers")
        return _map(file, np.dtype(dtype), shape, header)


def check_file(path: Path, expected: Checksum) -> None:
    """Reads a whole file. Raises DamagedError if it is not, to the bit, what was written."""
    with _opened(path) as file:
        _check_size(path, file, expected)
        crc = 0
        while chunk := file.read(READ_BYTES):
            crc = zlib.crc32(chunk, crc)
    _check_crc(path, crc, expected)


def damaged(path: Path, how: str) -> DamagedError:
    """The error for a file that is not what was written."""
    return DamagedError(f"{path}: damaged ({how}); {HINT}")


def _map(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> NDArray:
    """A read-only map of a part of a file that is long enough, which keeps no file open.

    Python's own maps keep a descriptor each: an index of 35 segments would need 280, and some systems allow 256.
    """
    if 0 in shape:  # an empty array cannot be mapped
        return np.empty(shape, dtype)
    if os.name != "posix":
        return np.memmap(file, dtype, "r", offset, shape)
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    length = offset - start + dtype.itemsize * math.prod(shape)
    address = _LIBRARY.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), start)
    if address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    pages: Any = (ctypes.c_ubyte * length).from_address(address)
    # The array keeps `pages`, and they go with it; at the end of the process other threads may still be searching.
    weakref.finalize(pages, _LIBRARY.munmap, address, length).atexit = False
    array = np.frombuffer(pages, dtype, math.prod(shape), offset - start).reshape(shape)
    array.flags.writeable = False
    return array


def _library() -> ctypes.CDLL:
    """The C library, with the types that Python cannot know."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        ctypes.c_long,  # off_t, of 64-bit systems
    )
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return library


_LIBRARY: Any = _library() if os.name == "posix" else None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_file(path) as file:
            yield file
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing from the index; {HINT}") from None
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from None


def _check_size(path: Path, file: BinaryIO, expected: Checksum) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != expected.size:
        raise damaged(path, f"{size} bytes instead of {expected.size}")


def _check_crc(path: Path, crc: int, expected: Checksum) -> None:
    if crc != expected.crc:
        raise damaged(path, "its content changed")


def _chunks(array: NDArray) -> Iterator[memoryview]:
    """The bytes of an array, without a copy if they are contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), WRITTEN_BYTES):
        yield flat[start : start + WRITTEN_BYTES].data
