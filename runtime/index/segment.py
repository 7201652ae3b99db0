"""A segment: an immutable part of the index, a folder of plain arrays that load by memory map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkCodes
from runtime.index.arrays import Checksum, check_file, damaged, load_array, map_array, sync_folder, write_array
from runtime.index.ids import Ids

ENTRY_FILES = ("images.npy", "codes.npy")  # nearly all of the bytes: of these, opening checks the size alone
SMALL_FILES = ("words.npy", "offsets.npy", "word_counts.npy", "id_bytes.npy", "id_ends.npy", "ordinals.npy")
FILES = (*ENTRY_FILES, *SMALL_FILES)


@dataclass(frozen=True)
class Segment:
    """Images in the order of their addition, in memory or on the disk.

    Attributes:
        inverted_file: the images and their codes.
        ids: of the images.
        ordinals: int64 [n], ascending: every image's number in the order of addition to the whole index, by which the
            catalogue knows it. It stays the same when segments are rewritten.
    """

    inverted_file: InvertedFile
    ids: Ids
    ordinals: NDArray[np.int64]

    @classmethod
    def build(cls, ids: Sequence[str], images: Sequence[AsmkCodes], first: int, code_length: int) -> "Segment":
        """The segment of at most 65,536 images, numbered from ``first``; ``code_length`` is ⌈D/64⌉."""
        ordinals = np.arange(first, first + len(ids), dtype=np.int64)
        return cls(InvertedFile.build(images, code_length), Ids.encode(ids), ordinals)

    @classmethod
    def merge(cls, parts: Sequence["Segment"], kept: Sequence[NDArray[np.bool_]]) -> "Segment":
        """One segment of the images of several, in their order, without those that are not kept (bool [n] a part)."""
        ordinals = [part.ordinals[keep] for part, keep in zip(parts, kept, strict=True)]
        return cls(
            InvertedFile.merge([part.inverted_file for part in parts], kept),
            Ids.merge([part.ids for part in parts], kept),
            np.concatenate(ordinals),
        )

    @property
    def entries(self) -> int:
        """Entries of the inverted file."""
        return len(self.inverted_file.images)

    def __len__(self) -> int:
        return len(self.ordinals)


def write_segment(folder: Path, segment: Segment) -> dict[str, Checksum]:
    """Writes a segment and waits until it is on the disk.

    Returns:
        the checksums of its files, by file name, for the catalogue: until that names the segment, it does not exist.
    """
    inverted_file = segment.inverted_file
    arrays: dict[str, NDArray] = {
        "images.npy": inverted_file.images,
        "codes.npy": inverted_file.codes,
        "words.npy": inverted_file.words,
        "offsets.npy": inverted_file.offsets,
        "word_counts.npy": inverted_file.word_counts,
        "id_bytes.npy": segment.ids.text,
        "id_ends.npy": segment.ids.ends,
        "ordinals.npy": segment.ordinals,
    }
    folder.mkdir()
    checksums = {name: write_array(folder / name, array) for name, array in arrays.items()}
    sync_folder(folder)
    sync_folder(folder.parent)
    return checksums


def load_segment(folder: Path, checksums: dict[str, Checksum], entries: int, code_length: int) -> Segment:
    """Opens a segment after checking the size of every file and the content of the small ones.

    The entries, nearly all of the bytes, are not read: ``verify``, and every merge before it trusts them, checks them.
    A flipped bit there can change scores, but no search reads or writes outside of the arrays for it.

    Args:
        folder: of the segment.
        checksums: of its files, by file name.
        entries: of its inverted file.
        code_length: ⌈D/64⌉.

    Raises:
        HowlError: a file is missing, truncated or changed; the line names it.
    """
    small = {name: load_array(folder / name, checksums[name]) for name in SMALL_FILES}
    if small["offsets.npy"][-1] != entries:
        raise damaged(folder, f"{small['offsets.npy'][-1]} entries, and {entries} in the catalogue")
    return Segment(
        InvertedFile(
            words=small["words.npy"],
            offsets=small["offsets.npy"],
            images=map_array(folder / "images.npy", checksums["images.npy"], np.uint16, (entries,)),
            codes=map_array(folder / "codes.npy", checksums["codes.npy"], np.uint64, (entries, code_length)),
            word_counts=small["word_counts.npy"],
        ),
        Ids(small["id_bytes.npy"], small["id_ends.npy"]),
        small["ordinals.npy"],
    )


def check_entries(folder: Path, checksums: dict[str, Checksum]) -> None:
    """Reads what opening leaves unread. Raises HowlError where it changed; the line names the file."""
    for name in ENTRY_FILES:
        check_file(folder / name, checksums[name])
