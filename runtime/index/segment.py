"""A segment: an immutable part of the index, a folder of plain arrays that load by memory map."""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.asmk import Aggregated
from runtime.errors import HowlError
from runtime.inverted_file import InvertedFile

ARRAYS = ("words", "offsets", "images", "codes", "word_counts")
ID_BYTES, ID_ENDS = "id_bytes", "id_ends"  # all ids as one UTF-8 string, and where each ends
CHUNK = 1 << 20
EMPTY_ARRAY_BYTES = 128  # a .npy header


@dataclass(frozen=True)
class FileSum:
    """Size and CRC-32 of a file, as the catalogue keeps them."""

    size: int
    crc: int


@dataclass(frozen=True)
class Segment:
    """A loaded segment.

    Attributes:
        name: of its folder.
        inverted_file: its images and their codes, memory-mapped.
        ids: of its images, in order.
    """

    name: str
    inverted_file: InvertedFile
    ids: list[str]


def write_segment(
    folder: Path, ids: Sequence[str], images: Sequence[Aggregated], code_length: int
) -> dict[str, FileSum]:
    """Writes a segment and waits until it is on the disk.

    Returns:
        the sums of its files, by file name, for the catalogue: until that names the segment, it does not exist.
    """
    inverted_file = InvertedFile.build(images, code_length)
    encoded = [identifier.encode() for identifier in ids]
    arrays: dict[str, NDArray] = {name: getattr(inverted_file, name) for name in ARRAYS}
    arrays[ID_BYTES] = np.frombuffer(b"".join(encoded), np.uint8)
    arrays[ID_ENDS] = np.cumsum([len(identifier) for identifier in encoded], dtype=np.int64)
    folder.mkdir()
    sums = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        sums[path.name] = sum_of(path)
    sync_folder(folder)
    sync_folder(folder.parent)
    return sums


def load_segment(folder: Path, sums: dict[str, FileSum]) -> Segment:
    """Opens a segment after checking every file against its sum.

    Raises:
        HowlError: a file is missing, truncated or changed; the line names it.
    """
    for name, expected in sums.items():
        check_file(folder / name, expected)
    arrays = {name: load_array(folder / f"{name}.npy") for name in ARRAYS}
    ends = load_array(folder / f"{ID_ENDS}.npy").tolist()
    text = load_array(folder / f"{ID_BYTES}.npy").tobytes()
    starts = [0, *ends[:-1]] if ends else []
    ids = [text[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    return Segment(folder.name, InvertedFile(**arrays), ids)


def check_file(path: Path, expected: FileSum) -> None:
    """Raises HowlError where a file is not what was written."""
    try:
        found = sum_of(path)
    except FileNotFoundError:
        raise HowlError(f"{path}: missing from the index; restore it from a backup, or index the photos anew") from None
    except OSError as error:
        raise HowlError(f"{path}: {error.strerror or error}") from None
    if found == expected:
        return
    damage = f"{found.size} bytes instead of {expected.size}" if found.size != expected.size else "its content changed"
    raise HowlError(f"{path}: damaged ({damage}); restore it from a backup, or index the photos anew")


def sum_of(path: Path) -> FileSum:
    """Size and CRC-32 of a file."""
    crc, size = 0, 0
    for chunk in _chunks(path):
        crc = zlib.crc32(chunk, crc)
        size += len(chunk)
    return FileSum(size, crc)


def load_array(path: Path) -> NDArray:
    """An array of a segment as a read-only memory map; an empty one, which cannot be mapped, is read."""
    empty = path.stat().st_size <= EMPTY_ARRAY_BYTES
    return np.load(path, allow_pickle=False, mmap_mode=None if empty else "r")


def sync_folder(folder: Path) -> None:
    """Waits until a folder's entries are on the disk."""
    if os.name == "nt":
        return  # Windows cannot sync a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
