"""A segment: an immutable part of the index, a folder of plain arrays, the large ones memory-mapped."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime.asmk.inverted_file import InvertedFile
from runtime.errors import IncompatibleError
from runtime.first_stage import ASMK, MAX_IMAGES, VECTORS, Layout, Store, ascends
from runtime.index.arrays import Checksum, check_file, damaged, load_array, map_array, write_array
from runtime.index.ids import Ids
from runtime.io.files import sync_folder
from runtime.vectors import VectorFile

STORES: dict[str, type[Store]] = {ASMK: InvertedFile, VECTORS: VectorFile}
# Of every segment, whatever its store: the dtype of each array, of one axis, by name.
IMAGE_FILES: Mapping[str, npt.DTypeLike] = {"id_bytes.npy": np.uint8, "id_ends.npy": np.int64, "ordinals.npy": np.int64}


@dataclass(frozen=True)
class Segment:
    """Images in the order of their addition, in memory or on the disk.

    Attributes:
        store: what a search reads of the images.
        ids: of the images.
        ordinals: int64 [n], ascending: every image's number in the order of addition to the whole index. The catalogue
            knows the image by it, and it stays the same when segments are rewritten.
        folder: on the disk; None in memory.
    """

    store: Store
    ids: Ids
    ordinals: NDArray[np.int64]
    folder: Path | None = None

    @classmethod
    def build(cls, ids: Sequence[str], images: Sequence[Any], first: int, layout: Layout) -> "Segment":
        """The segment of at most 65,536 encoded images, numbered from ``first``."""
        ordinals = np.arange(first, first + len(ids), dtype=np.int64)
        return cls(store_of(layout).build(images, layout), Ids.encode(ids), ordinals)

    @classmethod
    def merge(cls, parts: Sequence["Segment"], kept: Sequence[NDArray[np.bool_]]) -> "Segment":
        """One segment of the kept images of several, in their order; ``kept`` has bool [n] for each part."""
        ordinals = [part.ordinals[keep] for part, keep in zip(parts, kept, strict=True)]
        return cls(
            type(parts[0].store).merge([part.store for part in parts], kept),
            Ids.merge([part.ids for part in parts], kept),
            np.concatenate(ordinals),
        )

    def __len__(self) -> int:
        return len(self.ordinals)

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The score of every image: ``Store.scores``. Raises DamagedError as ``best`` does."""
        with self._naming_damage():
            return self.store.scores(query)

    def best(self, query: Any, live: NDArray[np.bool_], top: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The live images with the largest scores: ``Store.best``.

        Raises:
            DamagedError: a file of the segment was truncated since it was opened, or its disk failed; the line names
                the folder.
        """
        with self._naming_damage():
            return self.store.best(query, live, top)

    def correspond(self, *arguments: Any) -> None:
        """What a query shares with some images: ``InvertedFile.correspond``. Raises DamagedError as ``best`` does."""
        with self._naming_damage():
            cast(InvertedFile, self.store).correspond(*arguments)

    def images_at(self, rows: NDArray[np.int64]) -> list[Any]:
        """What was encoded of some images: ``Store.images_at``. Raises DamagedError as ``best`` does."""
        with self._naming_damage():
            return self.store.images_at(rows)

    def similarities(self, images: Sequence[Any], query: Any) -> NDArray[np.float64]:
        """How similar encoded images of any segment are to each other: ``Store.similarities``."""
        return self.store.similarities(images, query)

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self.folder is None:
                raise
            raise damaged(self.folder, str(error)) from None


def store_of(layout: Layout) -> type[Store]:
    """The kind of store of a layout's segments. Raises IncompatibleError if this howl does not know the method."""
    if layout.method not in STORES:
        raise IncompatibleError(f"an index of {layout.method}, which this howl does not know; update howl")
    return STORES[layout.method]


def segment_files(layout: Layout) -> tuple[str, ...]:
    """The names of a segment's files."""
    store = store_of(layout)
    return (*store.large_files(layout), *store.SMALL_FILES, *IMAGE_FILES)


def write_segment(folder: Path, segment: Segment) -> dict[str, Checksum]:
    """Writes a segment and waits until it is on the disk.

    Returns:
        the checksums of its files, by file name. Until the catalogue names the segment, it does not exist.
    """
    arrays: dict[str, NDArray] = {
        **segment.store.arrays(),
        "id_bytes.npy": segment.ids.text,
        "id_ends.npy": segment.ids.ends,
        "ordinals.npy": segment.ordinals,
    }
    folder.mkdir()
    checksums = {name: write_array(folder / name, array) for name, array in arrays.items()}
    sync_folder(folder)
    sync_folder(folder.parent)
    return checksums


def load_segment(folder: Path, checksums: dict[str, Checksum], entries: int, layout: Layout) -> Segment:
    """Opens a segment after checking the size of every file and the content of the small ones.

    The large ones, nearly all of the bytes, are not read. ``verify`` checks them, and so does every merge before it
    uses them. A flipped bit there can change scores, but never makes a search read or write outside the arrays.

    Args:
        folder: of the segment.
        checksums: of its files, by file name.
        entries: of its store.
        layout: of the index.

    Raises:
        DamagedError: a file is missing, truncated or changed; the line names it.
    """
    store = store_of(layout)
    dtypes = {**store.SMALL_FILES, **IMAGE_FILES}
    small = {name: load_array(folder / name, checksums[name], dtype) for name, dtype in dtypes.items()}
    try:
        opened = store.open(small, partial(_map_file, folder, checksums), entries, layout)
        _check_images(small, len(opened))
    except ValueError as error:
        raise damaged(folder, str(error)) from None
    return Segment(opened, Ids(small["id_bytes.npy"], small["id_ends.npy"]), small["ordinals.npy"], folder)


def _check_images(small: Mapping[str, NDArray], images: int) -> None:
    """Raises ValueError if ordinals and ids are not those of so many images."""
    ordinals, ends = small["ordinals.npy"], small["id_ends.npy"]
    if not len(ordinals) == len(ends) == images <= MAX_IMAGES:
        raise ValueError(f"{len(ordinals)} ordinals and {len(ends)} ids for {images} images")
    if not ascends(ordinals) or (images and ordinals[0] < 0):
        raise ValueError("ordinals.npy: the ordinals do not ascend")
    text = len(small["id_bytes.npy"])
    if not np.all(ends[1:] >= ends[:-1]) or (images and (ends[0] < 0 or ends[-1] != text)):
        raise ValueError(f"id_ends.npy: the ids do not end one after the other within {text} bytes")
    if not Ids(small["id_bytes.npy"], ends).are_unicode():
        raise ValueError("id_bytes.npy: an id is not valid Unicode")


def check_large_files(folder: Path, checksums: dict[str, Checksum], layout: Layout) -> None:
    """Checks the files that opening does not read. Raises DamagedError if one has changed; the line names it."""
    for name in store_of(layout).large_files(layout):
        check_file(folder / name, checksums[name])


def _map_file(folder: Path, checksums: dict[str, Checksum], name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray:
    return map_array(folder / name, checksums[name], dtype, shape)
