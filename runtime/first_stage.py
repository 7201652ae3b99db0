"""The seam between features and an index: the interfaces of every first stage of retrieval and of its segments.

A first stage (``FirstStage``) turns the features of a photo into what an index stores, or into a query. A store
(``Store``) holds the images of one segment and ranks them. ASMK has ``AsmkKernel`` and ``InvertedFile``, global
descriptors have ``InnerProduct`` and ``VectorFile``; nothing else in the index or the retriever knows which is in use.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime.features import Features

if TYPE_CHECKING:
    from runtime.index import Hits  # an index is made of first stages

ASMK, VECTORS = "asmk", "vectors"  # the methods
MAX_DIMENSIONS = 65_536  # beyond those of any descriptor
MAX_IMAGES = 65_536  # of a store: an inverted file numbers them with uint16


@dataclass(frozen=True)
class Layout:
    """What the segments of an index hold.

    Attributes:
        method: ``asmk`` for entries of an inverted file, ``vectors`` for global descriptors.
        dimensions: D of the descriptors behind the codes, or of the vectors.
        geometry: whether entries know where they lie in their images, which spatial verification needs.
        regions: levels of the grid whose regions ASMK aggregates apart (``runtime.asmk.regions``); 0 for none.
    """

    method: str
    dimensions: int
    geometry: bool = False
    regions: int = 0

    def fits(self, other: "Layout") -> bool:
        """Whether one first stage can search both: geometry and regions are each index's own."""
        return (self.method, self.dimensions) == (other.method, other.dimensions)


class FirstStage(Protocol):
    """Encodes features for an index and its queries. Its ``str()`` names its parameters, for people."""

    @property
    def layout(self) -> Layout:
        """How an index stores what this encodes."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The method and its parameters, as values for JSON."""
        ...

    def for_regions(self, levels: int) -> "FirstStage":
        """One that encodes for an index with as many levels of regions. Raises UsageError if it cannot."""
        ...

    def encode_database(self, features: Features) -> Any:
        """What an index stores of an image, as ``Store.build`` takes it."""
        ...

    def encode_query(self, features: Features, *, threads: int = 1) -> Any:
        """The query that ``Store.best`` and ``Store.scores`` take."""
        ...

    def build(self, images: Sequence[Any]) -> "Store":
        """A store of encoded images, in memory."""
        ...

    def searcher(self, index: "Searcher") -> "Searcher":
        """What searches an index (``runtime.index.Index``): the index itself, or a GPU that has a copy of it."""
        ...


class Searcher(Protocol):
    """An index, or what searches it with the same answers."""

    def search(
        self,
        query: Any,
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> "Hits":
        """The images most similar to a query, best first: ``Index.search``."""
        ...


class MapFile(Protocol):
    """Opens one large file of a segment as a read-only memory map of the given type and shape."""

    def __call__(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> NDArray: ...


class Store(Protocol):
    """Up to 65,536 images of a segment as a first stage searches them, in memory or on the disk.

    Attributes:
        LARGE_FILES: names of the files that hold nearly all of the bytes: opening checks only their sizes.
        SMALL_FILES: the files that opening reads whole and checks: the dtype of each array, of one axis, by name.
    """

    LARGE_FILES: ClassVar[tuple[str, ...]]
    SMALL_FILES: ClassVar[Mapping[str, npt.DTypeLike]]

    @classmethod
    def large_files(cls, layout: Layout) -> tuple[str, ...]:
        """The names of ``LARGE_FILES`` that a segment of this layout has."""
        ...

    @classmethod
    def build(cls, images: Sequence[Any], layout: Layout) -> Self:
        """The store of encoded images."""
        ...

    @classmethod
    def merge(cls, parts: Sequence[Self], kept: Sequence[NDArray[np.bool_]]) -> Self:
        """One store of the kept images of several, in their order; ``kept`` has bool [n] for each part."""
        ...

    @classmethod
    def open(cls, small: Mapping[str, NDArray], map_file: MapFile, entries: int, layout: Layout) -> Self:
        """Opens a store on the disk.

        Args:
            small: the arrays of ``SMALL_FILES``, by name.
            map_file: opens those of ``LARGE_FILES``.
            entries: their number, from the catalogue.
            layout: of the index.

        Raises:
            ValueError: the arrays do not fit each other.
        """
        ...

    @property
    def entries(self) -> int:
        """What the index counts: entries of an inverted file, or vectors."""
        ...

    def arrays(self) -> dict[str, NDArray]:
        """What is written to the disk, by file name."""
        ...

    def __len__(self) -> int: ...

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The score of every image, float64 [n]. Raises OSError if its file was truncated after it was opened."""
        ...

    def best(self, query: Any, live: NDArray[np.bool_], top: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The live images with the largest scores, at most ``top``, best first; of equal scores, the earlier first.

        Returns:
            their numbers, int64 [h], and scores, float64 [h].

        Raises:
            OSError: the file was truncated after it was opened.
        """
        ...

    def images_at(self, rows: NDArray[np.int64]) -> list[Any]:
        """What was encoded of some images, each once, as ``FirstStage.encode_database`` gave it, without geometry.

        Raises OSError if a file was truncated after it was opened.
        """
        ...

    @classmethod
    def similarities(cls, images: Sequence[Any], query: Any) -> NDArray[np.float64]:
        """How similar encoded images are to each other, float64 [n, n], symmetric, with the parameters of a query."""
        ...

    def shape_faults(self, images: int) -> Iterator[tuple[str, str]]:
        """Arrays that do not fit each other or ``images``: file and fault. ``content_faults`` needs them to fit."""
        ...

    def content_faults(self, dimensions: int) -> Iterator[tuple[str, str]]:
        """What is wrong with the content of the arrays: file and fault."""
        ...


def ascends(array: NDArray) -> bool:
    """Whether every element is above the one before."""
    return bool(np.all(array[1:] > array[:-1]))


def shape_fault(name: str, array: NDArray, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """The file and the fault, if its array does not have the expected type and shape."""
    if array.dtype != dtype or array.shape != shape:
        yield name, f"{array.dtype} {list(array.shape)} instead of {np.dtype(dtype)} {list(shape)}"
